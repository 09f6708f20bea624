"""A before/after slider: two pictures in one place, the border between them moved by hand."""

import io

import cv2
import ipywidgets as widgets
import numpy as np

from lib.runs.figures import as_bytes, grid


class Slider:
    """Two pictures of one size in one frame; `fraction` of the width shows the first, the rest the second.

    A notebook shows the widget while its kernel runs. Stored notebooks and pages show both pictures side by side.

    Args: before, after, uint8 (H, W, 3) or float tensors (3, H, W) in [-1, 1]; names, of the two; width, in pixels.
    Raises ValueError where the sizes differ.
    """

    def __init__(self, before, after, names=("before", "after"), width=256):
        self.before, self.after, self.names = as_bytes(before), as_bytes(after), names
        if self.before.shape != self.after.shape:
            raise ValueError(
                f"Not one size: {self.before.shape}, {self.after.shape}. Remedy: give pictures of one size."
            )
        self.handle = widgets.FloatSlider(0.5, min=0, max=1, step=0.01, description="border", readout=False)
        self.picture = widgets.Image(width=width)
        self.handle.observe(lambda change: self._show(), "value")
        self.widget = widgets.VBox([self.handle, widgets.Label(f"{names[0]} | {names[1]}"), self.picture])
        self._show()

    def at(self, fraction):
        """The frame, uint8 (H, W, 3), with a white line at the border."""
        border = round(fraction * self.before.shape[1])
        frame = np.concatenate([self.before[:, :border], self.after[:, border:]], axis=1)
        if 0 < border < frame.shape[1]:
            frame[:, border] = 255
        return frame

    def _show(self):
        self.picture.value = cv2.imencode(".png", self.at(self.handle.value)[..., ::-1])[1].tobytes()

    def _repr_mimebundle_(self, include=None, exclude=None):
        figure, stored = grid([[self.before, self.after]], [""], list(self.names)), io.BytesIO()
        figure.savefig(stored, format="png")
        words = f"Slider between {self.names[0]} and {self.names[1]}"
        bundle = self.widget._repr_mimebundle_() or {}
        return {**bundle, "image/png": stored.getvalue(), "text/plain": words}, {"image/png": {"alt": words}}
