"""Several people's adapters on one base: swapped without loading it again, and served together in one batch."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

from peft import PeftModel

from lib.errors import PersonalWeightsError
from lib.models import personal_weights
from lib.models.precision import move_to_device
from lib.models.system import FIELD
from lib.restoration.sampling import restore


class PerSampleAdapters:
    """A network with several adapters that gives each picture of a batch the adapter of its person; called like the network."""

    def __init__(self, network, names=()):
        self.network, self.names = network, list(names)

    def __call__(self, x_t, *args, **kwargs):
        return self.network(x_t, *args, adapter_names=self.names, **kwargs)

    def __getattr__(self, name):
        return getattr(self.network, name)


@dataclass
class AdapterServer:
    """People whose pivots were tuned by adapters on one base. Fill with `add`, then `restore`."""

    base: object  # lib.models.system.System; its G and E stay as they are
    networks: dict = field(default_factory=dict)  # "G" or "E" -> a copy of it with everybody's adapters
    facts: dict = field(default_factory=dict)  # name -> facts of the pivot

    def add(self, name, folder):
        """Loads the adapters of a pivot folder under `name`; the base is not loaded again.

        Raises PersonalWeightsError where the pivot has full weights, is damaged, or was tuned on another base; for a name in use.
        """
        folder, facts = Path(folder), personal_weights.facts_of(folder, self.base)
        if name in self.facts:
            raise PersonalWeightsError(f"name in use: {name}. Remedy: another name for {folder}.")
        if full := [part for part, key in FIELD.items() if key in facts["changed"] and not (folder / part).is_dir()]:
            raise PersonalWeightsError(
                f"not adapters: {folder} holds full weights of {', '.join(full)}. Remedy: tune with LORA above 0."
            )
        if self.facts and facts["changed"] != next(iter(self.facts.values()))["changed"]:
            raise PersonalWeightsError(f"other parts changed: {folder} changes {facts['changed']}. Remedy: serve it apart.")
        for part, key in FIELD.items():
            if key in facts["changed"]:
                self._adopt(key, name, folder / part)
        self.facts[name] = facts

    def _adopt(self, key, name, folder):
        try:
            if key in self.networks:
                self.networks[key].load_adapter(str(folder), adapter_name=name)
            else:
                network = copy.deepcopy(getattr(self.base, key))
                self.networks[key] = PeftModel.from_pretrained(network, str(folder), adapter_name=name)
            self.networks[key].to(self.base.device).requires_grad_(False).eval()
        except Exception as error:  # peft, safetensors and json each raise their own
            raise PersonalWeightsError(f"damaged pivot: {folder} ({str(error)[:160]}). Remedy: save the pivot again.") from error

    def restore(self, degraded, who, *, seeds, **options):
        """Restores pictures, each by its own person's pivot, in one batch.

        degraded: (N, 3, H, W) in [-1, 1]; who: N names; seeds and options: as of `lib.restoration.sampling.restore`, without prompt; gamma is
        that of the tuning unless given.
        Returns (N, 3, H, W). Raises PersonalWeightsError for an unknown name, or people whose text pivots differ.
        """
        if strangers := sorted(set(who) - set(self.facts)):
            raise PersonalWeightsError(
                f"no pivot of {', '.join(strangers)}. Remedy: add it; there are {', '.join(self.facts) or 'none'}."
            )
        tuned = {(self.facts[name]["prompt"], self.facts[name]["gamma"]) for name in who}
        if len(tuned) != 1 or len(who) != len(degraded):
            raise PersonalWeightsError(
                f"{len(who)} names, prompts and gammas {sorted(tuned)} for {len(degraded)} pictures. "
                "Remedy: a name for each picture, of people with one text pivot and one gamma."
            )
        ((prompt, gamma),) = tuned
        mixed = {key: PerSampleAdapters(network, who) for key, network in self.networks.items()}
        move_to_device(serving := self.base.with_(**mixed), [self.base])
        return restore(serving, degraded, prompt, seeds=seeds, batch=len(who), **{"gamma": gamma} | options)
