"""The discriminator of eq. 5 of HonestFace, a head on features of the frozen G; and one of patches of pictures."""

import torch.nn.functional as F
from torch import nn
from torch.func import functional_call


def encoder_features(G, x_t, t, prompt):
    """Features (N, C, h', w'), smaller by G's downsamplings, after the encoder and the middle block of G.

    Args: G, a frozen UNet; x_t, (N, C, h, w); t, (N,); prompt, (N, n, k).
    """
    emb = G.time_embedding(G.time_proj(t).to(x_t))  # (N, D)
    x = G.conv_in(x_t)
    for block in G.down_blocks:
        words = {"encoder_hidden_states": prompt} if getattr(block, "has_cross_attention", False) else {}
        x, _ = block(x, emb, **words)
    return G.mid_block(x, emb, encoder_hidden_states=prompt)


class Discriminator(nn.Module):
    """D of eq. 5: logits (N, 1, h, w) of features (N, C, h, w), real above 0.

    Args: channels, C; width, of the hidden layer. Source: OSDFace, section 3.4, which the paper takes over.
    """

    def __init__(self, channels, width=96):
        super().__init__()
        self.hidden = nn.Sequential(nn.GroupNorm(8, channels), nn.SiLU(), nn.Conv2d(channels, width, 3, padding=1))
        self.out = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 1, 1))

    def forward(self, features):
        return self.out(self.hidden(features))

    def frozen(self, features):
        """The logits by weights without gradients: for the generator's loss, which must not train D."""
        return functional_call(self, {name: weight.detach() for name, weight in self.named_parameters()}, (features,))


class PatchDiscriminator(Discriminator):
    """Logits (N, 1, H/4, W/4) of pictures (N, 3, H, W) in [-1, 1]: each sees a patch of 20 px. For the decoder."""

    def __init__(self, fold=4, width=64):
        super().__init__(width)
        self.fold, self.first = fold, nn.Conv2d(3 * fold**2, width, 3, padding=1)

    def forward(self, pictures):
        return super().forward(self.first(F.pixel_unshuffle(pictures, self.fold)))


def generator_loss(logits):
    """L_G of eq. 5: -log D, the mean over logits of restored latents. Returns a scalar."""
    return F.softplus(-logits).mean()


def discriminator_loss(restored, real):
    """L_D of eq. 5: -log(1 - D) of restored and -log D of real latents, from their logits. Returns a scalar."""
    return F.softplus(restored).mean() + F.softplus(-real).mean()


def noised_features(B, latents, t, eps):
    """F(z, t) of eq. 5, seen by the frozen G of B with the empty prompt. Returns (N, C, h', w').

    Args: B; latents, eps, (N, C, h, w); t, (N,) steps of the schedule.
    """
    null = B.embed([""]).expand(len(latents), -1, -1)  # (N, L, D)
    return encoder_features(B.G, B.scheduler.add_noise(latents, eps, t), t, null)
