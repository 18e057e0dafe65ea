"""Ports of the models in `in_keras.py`, right and wrong."""

import lightning
import torch
import torchvision
from portproof.adapter import Adapter, register
from torch import nn
from torch.nn import functional as F


class Residual(nn.Module):
    def __init__(self, epsilon=1e-5, momentum=0.1, shortcut=True):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8, eps=epsilon, momentum=momentum)
        self.second = nn.Conv2d(8, 8, 3, stride=2)
        self.short = nn.Conv2d(3, 8, 1, stride=2)
        self.head = nn.Linear(8, 4)
        self.shortcut = shortcut

    def forward(self, x):
        y = F.relu(self.norm(self.first(x)), inplace=True)
        y = self.second(F.pad(y, (0, 1, 0, 1)))
        short = F.relu(self.short(x))
        y += short if self.shortcut else 0 * short
        return self.head(y.relu_().mean((2, 3)))


def residual():
    return Residual()


def residual_other_epsilon():
    return Residual(epsilon=1e-3)


def residual_other_norm():
    return Residual(epsilon=1e-3, momentum=0.01)


def residual_without_shortcut():
    return Residual(shortcut=False)


def channels_first():
    maps = [nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.GroupNorm(2, 4)]
    return nn.Sequential(*maps, nn.Flatten(), nn.Linear(144, 5))


class Skipping(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.relu, self.head = nn.Linear(6, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)

    def forward(self, x):
        x = self.first(x)
        return self.head(self.relu(x) + x)


def skipping_overwritten():
    return Skipping()


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        options = {"activation": "gelu", "batch_first": True, **options}
        self.block = nn.TransformerEncoderLayer(8, 2, 16, **options)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens):
        return self.head(self.block(self.embedding(tokens)).mean(1))


def encoder():
    return Encoder()


def encoder_by_tanh():
    return Encoder(activation=lambda x: F.gelu(x, approximate="tanh"))


def encoder_over_samples():
    return Encoder(batch_first=False)


class LookingBack(Encoder):
    def forward(self, tokens):
        mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=self.head.weight.dtype)
        return self.head(self.block(self.embedding(tokens), mask, is_causal=True).mean(1))


def encoder_looking_back():
    return LookingBack()


class Noisy(Encoder):
    def forward(self, tokens):
        x = self.block(self.embedding(tokens)).mean(1)
        return self.head(x + torch.randn_like(x))


def encoder_with_noise():
    return Noisy()


class Recurrent(nn.Module):
    def __init__(self, batch_first=True):
        super().__init__()
        self.first = nn.LSTM(5, 4, bidirectional=True, batch_first=True)
        self.second = nn.LSTM(8, 3, bidirectional=True, batch_first=True)
        self.last = nn.GRU(6, 6, batch_first=batch_first)
        self.weight = nn.Parameter(torch.zeros(6, 2))
        self.bias = nn.Parameter(torch.zeros(2))
        self.score = nn.Linear(6, 1)

    def forward(self, x):
        x = self.last(self.second(self.first(x)[0])[0])[0][:, -1]
        return x @ self.weight + self.bias, torch.sigmoid(self.score(x))


def recurrent():
    return Recurrent()


def recurrent_over_samples():
    return Recurrent(batch_first=False)


class Gated(nn.Module):
    def __init__(self, rate=0.1):
        super().__init__()
        self.conv, self.gate = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.drop = torchvision.ops.StochasticDepth(rate, "row")
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        x = self.conv(x / 255)
        y = x * F.hardsigmoid(self.gate(x))
        return self.head((x + self.drop(y * self.scale)).mean((2, 3)))


def gated():
    return Gated()


def gated_without_dropout():
    return Gated(rate=0.0)


def resized():
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(nn.Conv2d(3, 2, 3), up, nn.Flatten(), nn.Linear(32, 3))


class Padded(nn.Module):
    """An LSTM with one bias, whose second is a constant, read at the last real step."""

    def __init__(self, reads_last_real=True):
        super().__init__()
        self.embedding, self.head = nn.Embedding(11, 4), nn.Linear(5, 3)
        self.w, self.u = nn.Parameter(torch.zeros(20, 4)), nn.Parameter(torch.zeros(20, 5))
        self.b = nn.Parameter(torch.zeros(20))
        self.reads_last_real = reads_last_real

    def forward(self, tokens):
        x, zeros = self.embedding(tokens), torch.zeros(1, len(tokens), 5)
        weights = [self.w, self.u, self.b, torch.zeros_like(self.b)]
        states = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, False, False, True)[0]
        if self.reads_last_real:
            return self.head(states[torch.arange(len(x)), (tokens != 0).sum(1) - 1])
        return self.head(states[:, -1])


def padded():
    return Padded()


def padded_to_the_end():
    return Padded(reads_last_real=False)


class Convolutions(nn.Module):
    def __init__(self, slope=0.2, softmax=True):
        super().__init__()
        self.grouped = nn.Conv2d(4, 8, 3, padding=2, groups=2, dilation=2)
        self.act = nn.LeakyReLU(slope)
        self.depthwise = nn.Conv2d(8, 16, 3, groups=8)
        self.norm = nn.GroupNorm(4, 16, eps=1e-3)
        self.separable = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False), nn.Conv2d(16, 6, 1), nn.SiLU()
        )
        self.up = nn.ConvTranspose2d(6, 4, 3, stride=2)
        self.head = nn.Linear(4 * 11 * 11, 5)
        self.softmax = softmax

    def forward(self, x):
        x = F.max_pool2d(self.norm(self.depthwise(self.act(self.grouped(x)))), 2)
        x = self.head(self.up(self.separable(x)).flatten(1))
        return x.softmax(-1) if self.softmax else x


def convolutions():
    return Convolutions()


def convolutions_other_slope():
    return Convolutions(slope=0.01)


def convolutions_without_softmax():
    return Convolutions(softmax=False)


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3, 6))
        self.g = nn.Parameter(torch.ones(3))

    def forward(self, x):
        return (x @ self.weight.T) * self.g


class ScaledTwice(Scaled):
    def forward(self, x):
        return super().forward(x) * self.g


@register("Scaled")
class ScaledAdapter(Adapter):
    kind = "scaled dense"

    def roles(self, module):
        return {"kernel": (module.weight, lambda a: a.T, lambda a: a.T), "gamma": module.g}


def custom():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), Scaled(), nn.Linear(3, 2))


def custom_twice():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), ScaledTwice(), nn.Linear(3, 2))


def clipped_not():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


class Positive(nn.Linear):
    def forward(self, x):
        return super().forward(x) > 0


def positive():
    return Positive(6, 3)


class Mean(nn.Linear):
    def forward(self, x):
        return super().forward(x).mean()


def mean():
    return Mean(6, 3)


class Patches(nn.Module):
    """Places that are a parameter, attention as a function, GELU by its formula."""

    def __init__(self, by_rows=True):
        super().__init__()
        self.token = nn.Parameter(torch.zeros(1, 1, 8))
        self.places = nn.Parameter(torch.zeros(6, 8))
        self.conv, self.norm = nn.Conv2d(3, 8, 2, 2), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 3)
        self.by_rows = by_rows

    def forward(self, images):
        x = self.conv(images)
        x = (x if self.by_rows else x.mT).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places[:5]
        parts = self.qkv(self.norm(x)).chunk(3, dim=-1)
        q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in parts)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.1 if self.training else 0.0)
        y = self.out(y.transpose(1, 2).reshape(-1, 8)).view(x.shape)
        x = self.up(x + y)
        x = 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * x**3)))
        return self.down(x)[:, 0]


def patches():
    return Patches()


def patches_by_columns():
    return Patches(by_rows=False)


class FusedEncoder(Encoder):
    """Queries, keys and values in one matrix, norms and all by hand."""

    def __init__(self):
        super().__init__()
        del self.block
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, tokens):
        x = self.embedding(tokens)
        q, k, v = (
            part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(x).chunk(3, dim=-1)
        )
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norm1(x + F.dropout(self.out(y), 0.1, self.training))
        x = self.norm2(x + self.down(F.gelu(self.up(x))))
        return self.head(x.mean(1))


def encoder_fused():
    return FusedEncoder()


class Regression(lightning.LightningModule):
    def __init__(self, rate=0.0625):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.rate = rate

    def forward(self, x):
        return self.network(x)

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x), y.reshape(-1, 1))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), self.rate)


class Broadcasting(Regression):
    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.mse_loss(self(x), y)


class Turned(nn.Linear):
    """A layer whose weight is made anew of its parameter at each call."""

    def forward(self, x):
        first, second = self.weight.chunk(2)
        return F.linear(x, torch.cat([second, first]), self.bias)


class Attending(Regression):
    """Functions that drop numbers in training, of one step and thus without effect."""

    def forward(self, x):
        x = self.network[0](x)
        values = x[:, None, None]
        rate = 0.5 if self.training else 0.0
        x = F.scaled_dot_product_attention(values, values, values, dropout_p=rate)[:, 0, 0]
        return self.network[3](torch.tanh(x))


def regression():
    return Regression()


def regression_turned():
    module = Regression()
    module.network[0] = Turned(6, 8)
    return module


def regression_attending():
    return Attending()


class ByHand(Regression):
    """Steps by itself, returns no loss, and asks its Trainer for how many steps there will be."""

    def __init__(self, rate=0.0625):
        super().__init__(rate)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        optimizer = self.optimizers()
        optimizer.zero_grad()
        self.manual_backward(super().training_step(batch, batch_idx))
        optimizer.step()

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 3
        return [{"optimizer": super().configure_optimizers()}]


def regression_by_hand():
    return ByHand()


def regression_by_hand_other_rate():
    return ByHand(0.03125)


def regression_broadcasting():
    return Broadcasting()


class Flat(Regression):
    """A loss that takes targets of (N,) alone, in a network with another activation."""

    def __init__(self):
        super().__init__()
        self.network[1] = nn.ReLU()

    def training_step(self, batch, batch_idx):
        x, (y,) = batch[0], batch[1].unsqueeze(0)
        if y.ndim != 1:
            raise RuntimeError("targets of (N,) alone")
        return F.mse_loss(self(x)[:, 0], y)


class Normed(Regression):
    def __init__(self, is_adam, epsilon=1e-7):
        super().__init__()
        self.network = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
        self.is_adam, self.epsilon = is_adam, epsilon

    def configure_optimizers(self):
        if self.is_adam:
            return torch.optim.Adam(self.parameters(), 0.001, eps=self.epsilon)
        return super().configure_optimizers()


def adam():
    return Normed(True)


def adam_default():
    return Normed(True, 1e-8)


def norm_regression():
    return Normed(False)


def regression_flat():
    return Flat()


def regression_clipped():
    return Regression(), {"gradient_clip_val": 0.25}


def regression_other_rate():
    return Regression(0.125)


class Dropping(nn.Module):
    def __init__(self, drop, end=lambda y, training: y):
        super().__init__()
        self.first, self.last, self.drop, self.end = nn.Linear(4, 8), nn.Linear(8, 5), drop, end

    def forward(self, x):
        y = self.drop(F.relu(self.first(x)).transpose(1, 2), self.training).transpose(1, 2)
        return self.end(self.last(y), self.training)


def channels_dropped(y, training):
    return F.dropout1d(y, 0.5, training)


def dropping():
    return Dropping(channels_dropped)


def dropping_numbers():
    return Dropping(lambda y, training: F.dropout(y, 0.5, training))


def dropping_always():
    return Dropping(lambda y, training: F.dropout1d(y, 0.5))


def dropping_turned():
    return Dropping(channels_dropped, lambda y, training: y.transpose(0, 1))


def dropping_channels_first():
    return Dropping(channels_dropped, lambda y, training: y.transpose(1, 2))


def dropping_shifted_in_training():
    return Dropping(channels_dropped, lambda y, training: y + float(training))
