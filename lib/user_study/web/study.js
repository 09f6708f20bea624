// The trial page. It asks the server what comes next, shows it when every picture is there, and sends the choice until
// the server has said that it is kept. Nothing is stored here, so a closed tab or a second one does no harm.
"use strict";

const $ = (id) => document.getElementById(id);
const MESSAGES = { lost: "The connection is lost. Trying again …", fast: "Please look at all pictures first." };
const LEAST = 110, MOST = 3; // CSS pixels of a small screen, where the page scrolls; times that a picture is enlarged
let state = null; // what the server said last
let shownAt = null; // performance.now() when the pictures were seen; null while nothing can be chosen
let introduced = null; // the part whose guidelines were read

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const say = (text, problem = false) => { $("wait").textContent = text; $("wait").classList.toggle("problem", problem); };
const show = (id) => { for (const one of ["intro", "trial", "end"]) $(one).hidden = one !== id; };

// A request that is repeated until there is a reply. Answers may be repeated: the server keeps one.
async function ask(path, body) {
  for (let wait = 300; ; wait = Math.min(2 * wait, 5000)) {
    try {
      const options = body && { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
      const reply = await fetch(path, { cache: "no-store", ...options });
      if (reply.status !== 429 && reply.status < 500) return reply;
    } catch (error) { /* no server at the moment */ }
    say(MESSAGES.lost, true);
    await pause(wait);
  }
}

async function load() {
  const reply = await ask("/state");
  if (reply.status === 401) return location.replace("/");
  await present(await reply.json());
}

async function present(next) {
  state = next;
  shownAt = null;
  $("bar").setAttribute("aria-valuemax", state.total);
  $("bar").setAttribute("aria-valuenow", state.done);
  $("done").style.width = `${(100 * state.done) / state.total}%`;
  if (state.trial === null) { show("end"); return say(""); }
  if (introduced !== state.part) return introduce();
  await present_trial();
}

function introduce() {
  $("intro-part").textContent = `Part ${state.part} of ${state.parts}`;
  $("intro-question").textContent = state.question;
  const paragraphs = state.guidelines.split(/\n\s*\n/);
  $("intro-guidelines").replaceChildren(...paragraphs.map((text) => {
    const one = document.createElement("p");
    one.textContent = text;
    return one;
  }));
  $("intro-keys").textContent =
    `Tap or click your choice, or press its number (1 to ${state.options.length}) on a keyboard. ` +
    (state.practice ? "The first screen is for practice." : "");
  show("intro");
  say("");
  preload([...state.options, ...state.input, ...state.references]);
  $("start").focus();
}

// An <img> whose picture is decoded; a picture that does not come is asked for again.
async function decoded(address, alt) {
  for (let wait = 300; ; wait = Math.min(2 * wait, 5000)) {
    const image = new Image();
    image.alt = alt;
    image.draggable = false;
    image.src = address;
    try { await image.decode(); return image; } catch (error) { say(MESSAGES.lost, true); }
    await pause(wait);
  }
}

const preload = (addresses) => addresses.forEach((address) => { new Image().src = address; });

async function present_trial() {
  const mine = state;
  say("");
  const late = setTimeout(() => say("Loading …"), 400);
  const [options, input, references] = await Promise.all([
    Promise.all(mine.options.map((one, k) => decoded(one, `restoration ${k + 1}`))),
    Promise.all(mine.input.map((one) => decoded(one, "the damaged picture"))),
    Promise.all(mine.references.map((one, k) => decoded(one, `reference ${k + 1}`))),
  ]);
  clearTimeout(late);
  if (mine !== state) return;
  $("note").textContent = mine.practice ? "Practice: this one does not count." : `${mine.done + 1} of ${mine.total}`;
  $("question").textContent = mine.question;
  $("beside").hidden = !input.length;
  $("input").querySelector(".row").replaceChildren(...input);
  $("references").querySelector(".row").replaceChildren(...references);
  $("options").replaceChildren(...options.map(button));
  show("trial");
  resize();
  say("");
  document.activeElement?.blur();
  window.scrollTo(0, 0);
  requestAnimationFrame(() => requestAnimationFrame((now) => { if (mine === state) shownAt = now; }));
  preload(mine.ahead);
}

function button(image, k) {
  const one = document.createElement("button");
  one.type = "button";
  one.setAttribute("aria-label", `restoration ${k + 1}`);
  const number = document.createElement("span");
  number.textContent = k + 1;
  one.append(image, number);
  one.addEventListener("click", () => choose(k));
  return one;
}

// The largest width at which everything fits, the same for every picture of the screen.
function resize() {
  if (!state || state.trial === null || $("trial").hidden) return;
  const [w, h] = state.size, n = state.options.length;
  const wide = document.documentElement.clientWidth - 24, phone = wide < 620;
  const columns = phone ? Math.min(n, 2) : n, rows = Math.ceil(n / columns);
  const set = (name, width) => $("trial").style.setProperty(name, `${Math.floor(width)}px`);
  const beside = state.references.length + 1;
  set("--v", Math.min((wide - 20 - 6 * beside) / beside, 0.17 * innerHeight * (w / h), w * MOST));
  $("options").style.gridTemplateColumns = `repeat(${columns}, max-content)`;
  const above = $("options").getBoundingClientRect().top + scrollY;
  const across = (wide - 14 * (columns - 1)) / columns - 20;
  const down = ((innerHeight - above - 90) / rows - 50) * (w / h);
  set("--w", Math.min(across, Math.max(down, LEAST), w * MOST));
}

async function choose(k) {
  if (shownAt === null || k >= state.options.length) return;
  const seconds = (performance.now() - shownAt) / 1000;
  if (seconds < state.least_seconds) return say(MESSAGES.fast);
  shownAt = null; // a second click changes nothing
  $("options").children[k].classList.add("chosen");
  const width = Math.round($("options").querySelector("img").getBoundingClientRect().width);
  const reply = await ask("/answer", { trial: state.trial, option: k, seconds, width });
  if (reply.status === 401) return location.replace("/");
  if (reply.ok) return present(await reply.json());
  await load(); // answered in another tab, or refused: what the server has counts
  if (reply.status === 422) say(MESSAGES.fast);
}

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (event.target.closest?.("footer")) return;
  const arrows = { ArrowLeft: 0, ArrowRight: 1 };
  const two = !$("trial").hidden && state?.options?.length === 2;
  if (/^[1-9]$/.test(event.key)) choose(Number(event.key) - 1);
  else if (two && event.key in arrows) choose(arrows[event.key]);
});
addEventListener("resize", resize);
// Back to a page that the browser has kept: ask again where we are.
addEventListener("pageshow", (event) => { if (event.persisted) load(); });
$("start").addEventListener("click", () => { introduced = state.part; present_trial(); });
load();
