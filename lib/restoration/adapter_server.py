"""Adapters of several people on one base system: loaded beside each other, and used together in one batch."""

import copy
from dataclasses import dataclass, field

import torch
from peft import PeftModel
from safetensors.torch import load_file

from lib import checks
from lib.errors import PersonalWeightsError
from lib.images import check_pictures
from lib.models.personal_weights import check_loaded, personal_of, read_card, reading
from lib.models.precision import Precision, lowered, move_to_device
from lib.models.system import FIELD, System
from lib.paths import from_root
from lib.restoration.sampling import check_seeds, restore


class PerSampleAdapters(torch.nn.Module):
    """A network with several adapters that uses, for each sample of a batch, the adapter of that sample's person."""

    def __init__(self, network, adapters):
        super().__init__()
        self.network, self.adapters = network, list(adapters)

    @property
    def device(self):
        """The device of the network."""
        return self.network.device

    def forward(self, x_t, *args, **kwargs):
        """The network's output for x_t (N, C, h, w), N being the number of adapters."""
        return self.network(x_t, *args, adapter_names=self.adapters, **kwargs)


@dataclass
class AdapterServer:
    """Personal adapters on one base system: `add` people, then `restore` their pictures together.

    Args: base, the System that all of them were tuned on; its G and E stay as they are.
    """

    base: System
    networks: dict = field(default_factory=dict)  # "G" or "E" -> a copy of it with the adapters of everybody
    cards: dict = field(default_factory=dict)  # name -> the card of the person's weights
    adapters: dict = field(default_factory=dict)  # name -> what the person's adapters are called in the networks

    def add(self, name, folder):
        """Load a person's adapters under `name`; the base is neither loaded nor hashed again.

        Args: name; folder that `System.save_personal` wrote, seen from the repository.
        Raises PersonalWeightsError for a name in use, full weights, another base, a damaged folder, or a person whose
        tuning changed other networks than that of those already here; the server is then as before.
        """
        folder = from_root(folder)
        card = read_card(folder, self.base)
        self._check(name, folder, card)
        parts = {part: folder / file for file, part in FIELD.items() if part in card["changed"]}
        adapter = f"person{len(self.cards)}"  # peft looks for this text in the names of layers: no place for any name
        try:
            for part, where in parts.items():
                self._load(part, adapter, where)
        except BaseException:  # also when it is interrupted
            for part in parts:
                self._remove(part, adapter)
            raise
        self.cards[name], self.adapters[name] = card, adapter

    def _check(self, name, folder, card):
        if name in self.cards:
            raise PersonalWeightsError(f"name in use: {name}. Remedy: another name for {folder}.")
        full = [part for file, part in FIELD.items() if part in card["changed"] and not (folder / file).is_dir()]
        if full:
            raise PersonalWeightsError(
                f"not adapters: {folder} holds full weights of {', '.join(full)}. Remedy: tune with LORA above 0."
            )
        others = [card["changed"] for card in self.cards.values()]
        if others and card["changed"] != others[0]:
            raise PersonalWeightsError(
                f"other networks changed: {folder} changes {card['changed']}, the others {others[0]}. "
                "Remedy: serve it from a server of its own."
            )

    def _load(self, part, adapter, folder):
        with reading(folder):
            if part in self.networks:
                self.networks[part].load_adapter(str(folder), adapter_name=adapter)
            else:
                network = copy.deepcopy(getattr(self.base, part))
                self.networks[part] = PeftModel.from_pretrained(network, str(folder), adapter_name=adapter)
            self.networks[part].to(self.base.device).requires_grad_(False).eval()
            check_loaded(self.networks[part], load_file(folder / "adapter_model.safetensors"), adapter)

    def _remove(self, part, adapter):
        """Take a person's adapter out again; the network, too, when it was the only one."""
        network = self.networks.get(part)
        if network is None or adapter not in network.peft_config:
            return
        if len(network.peft_config) == 1:
            del self.networks[part]
        else:
            network.delete_adapter(adapter)

    def restore(self, degraded, names, *, seeds, batch=8, precision=Precision(), gamma=None, **options):
        """Restore pictures, each with the adapters of its own person.

        Args: degraded, (N, 3, S, S) in [-1, 1]; names, N names that were added; seeds, batch, precision, gamma and
        options as of `lib.restoration.sampling.restore`, without a prompt: it is that of the people, as is gamma.
        Returns (N, 3, S, S). Raises PersonalWeightsError for an unknown name or people whose prompts or gammas differ,
        and the errors of `restore`.
        """
        degraded, batch = check_pictures(degraded, self.base.size), checks.whole("batch", batch, least=1)
        names = [names] if isinstance(names, str) else list(names)
        personal, seeds = self._common(names, len(degraded)), check_seeds(seeds, len(degraded))
        restored = []
        for start in range(0, len(degraded), batch):
            here = slice(start, start + batch)
            B = self._system(names[here], personal, precision)
            settings = dict(seeds=seeds[here], batch=batch, precision=precision, gamma=gamma, **options)
            restored.append(restore(B, degraded[here], **settings))
        return torch.cat(restored)

    def _common(self, names, count):
        if unknown := sorted(set(names) - self.cards.keys()):
            known = ", ".join(self.cards) or "nobody"
            raise PersonalWeightsError(f"no adapters of {', '.join(unknown)}. Remedy: add them; here: {known}.")
        settings = {(self.cards[name]["prompt"], self.cards[name]["gamma"]) for name in names}
        if len(settings) != 1 or len(names) != count:
            raise PersonalWeightsError(
                f"{len(names)} names with prompts and gammas {sorted(settings)} for {count} pictures. "
                "Remedy: give one name for each picture, of people with one prompt and one gamma."
            )
        return personal_of(self.cards[names[0]])

    def _system(self, names, personal, precision):
        """The base with the adapters of these people in it, in the precision that is wanted."""
        networks = {part: lowered(network, precision.dtype) for part, network in self.networks.items()}
        adapters = [self.adapters[name] for name in names]
        parts = {part: PerSampleAdapters(network, adapters) for part, network in networks.items()}
        B = self.base.personalised(personal, **parts)
        move_to_device(B, [self.base])
        return B
