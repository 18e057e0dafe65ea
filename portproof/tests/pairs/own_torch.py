"""Ports of own_keras.py, right and wrong."""

import torch
from torch import nn
from torch.nn import functional as F


class Rms(nn.Module):
    def __init__(self, added):
        super().__init__()
        self.weight, self.added = nn.Parameter(torch.ones(8)), added

    def forward(self, x):
        y = x.to(torch.float32)  # as a Llama does
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)
        return (self.added + self.weight) * y.type_as(x)


class Norm(nn.Module):
    """LayerNorm by hand, over the last axis or over channels."""

    def __init__(self, epsilon, axis=-1, correction=0):
        super().__init__()
        self.g, self.b = nn.Parameter(torch.ones(8)), nn.Parameter(torch.zeros(8))
        self.epsilon, self.axis, self.correction = epsilon, axis, correction

    def forward(self, x):
        mean = x.mean(self.axis, keepdim=True)
        variance = x.var(self.axis, correction=self.correction, keepdim=True)
        y = (x - mean) / torch.sqrt(variance + self.epsilon)
        if self.axis == 1:
            return self.g[:, None, None] * y + self.b[:, None, None]
        return self.g * y + self.b


class Own(nn.Module):
    def __init__(self, activation=torch.tanh, correction=0):
        super().__init__()
        self.one, self.first = nn.Linear(8, 8), Rms(1)
        self.two, self.second = nn.Linear(8, 8), Rms(0)
        self.factor = nn.Parameter(torch.ones(8))
        self.three, self.third = nn.Linear(8, 8), Norm(1e-5, correction=correction)
        self.head, self.activation = nn.Linear(8, 3), activation

    def forward(self, x):
        x = self.first(self.one(x))
        x = F.silu(self.second(F.relu(self.two(x)))) * self.factor
        return self.head(self.third(self.activation(self.three(x))))


def own():
    return Own()


def own_by_relu():
    return Own(F.relu)


def own_over_less():
    return Own(correction=1)


class Maps(nn.Module):
    def __init__(self, scale=None):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1), Norm(1e-6, 1)
        self.qkv, self.rows, self.head = (
            nn.Conv2d(8, 24, 1),
            nn.Conv1d(16, 16, 1),
            nn.Conv2d(8, 4, 1),
        )
        self.scale = scale

    def forward(self, x):
        q, k, v = (m.flatten(2).mT for m in self.qkv(self.norm(self.conv(x))).chunk(3, 1))
        y = self.rows(F.scaled_dot_product_attention(q, k, v, scale=self.scale))
        return self.head(y.mT.unflatten(2, (4, 4)))


def maps():
    return Maps()


def maps_not_scaled():
    return Maps(1.0)


class Frames(nn.Module):
    def __init__(self, pool=torch.amax):
        super().__init__()
        self.conv, self.gru, self.head = (
            nn.Conv2d(2, 4, 3),
            nn.GRU(4, 5, batch_first=True),
            nn.Linear(5, 2),
        )
        self.pool = pool

    def forward(self, x):  # (N, frames, channels, H, W)
        y = F.relu(self.conv(x.flatten(0, 1)))
        y = self.pool(y, (2, 3)).unflatten(0, x.shape[:2])
        return self.head(self.gru(y)[1][-1])


def frames():
    return Frames()


def frames_averaged():
    return Frames(torch.mean)


class Experts(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(6, 3)
        self.experts = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))

    def forward(self, x):
        y = torch.stack([F.relu(expert(x)) for expert in self.experts], 1)
        return torch.einsum("ne,nec->nc", self.gate(x).softmax(-1), y)


def experts():
    return Experts()


def drop_path(x, rate, training):
    return x * x.new_empty(len(x), 1).bernoulli_(1 - rate) / (1 - rate) if training else x


class Overridden(nn.Module):
    def __init__(self, mistake=""):
        super().__init__()
        self.conv, self.dense = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)
        self.norm, self.last, self.mistake = nn.LayerNorm(4), nn.Linear(4, 3), mistake

    def forward(self, x):
        x = F.pad(x, (1, 1, 1, 1), mode="constant" if self.mistake == "zeros" else "reflect")
        x = self.conv(x).mean((2, 3))
        whole, y = self.mistake == "whole", self.dense(x)
        x = torch.tanh(x + y) if whole else x + torch.tanh(y)
        scale = self.norm.weight
        scale = scale.abs() if self.mistake == "unsigned" else scale
        x = F.layer_norm(x, (4,), scale, self.norm.bias)
        return self.last(drop_path(x, 0.5, self.training or self.mistake == "dropping"))


def overridden():
    return Overridden()


def overridden_zeros():
    return Overridden("zeros")


def overridden_whole():
    return Overridden("whole")


def overridden_unsigned():
    return Overridden("unsigned")


def overridden_dropping():
    return Overridden("dropping")


class Hidden(nn.Module):
    def __init__(self, is_rounded=False, approximate="none", epsilon=1e-3):
        super().__init__()
        self.is_rounded, self.approximate = is_rounded, approximate
        self.one, self.two, self.three = nn.Linear(6, 8), nn.Linear(8, 7), nn.Linear(7, 8)
        self.norm, self.last = nn.LayerNorm(8, eps=epsilon), nn.Linear(8, 3)

    def forward(self, x):
        x = F.gelu(self.two(F.gelu(self.one(x))), approximate=self.approximate)
        x = self.norm(self.three(x))
        return self.last((2 * x).round() if self.is_rounded else x)


def hidden():
    return Hidden()


def hidden_by_tanh():
    return Hidden(approximate="tanh")


def rounded():
    return Hidden(True)


def rounded_by_tanh():
    return Hidden(True, "tanh")


def rounded_other_epsilon():
    return Hidden(True, epsilon=1e-5)


class Mix(nn.Module):
    def __init__(self, in_training):
        super().__init__()
        self.in_training = in_training

    def forward(self, x):
        is_mixed = self.in_training or not self.training
        return 0.7 * x + 0.3 * x.flip(-1) if is_mixed else x


def mixed():
    return nn.Sequential(nn.Linear(4, 8), Mix(True), nn.Linear(8, 2))


def mixed_in_evaluation():
    return nn.Sequential(nn.Linear(4, 8), Mix(False), nn.Linear(8, 2))


class Attending(nn.Module):
    def __init__(self, is_awake=False):
        super().__init__()
        self.attention, self.is_awake = nn.MultiheadAttention(4, 2, 0.1, batch_first=True), is_awake

    def forward(self, x):
        self.attention.train(self.training or self.is_awake)
        return self.attention(x, x, x)[0]


def attending():
    return Attending()


def attending_awake():
    return Attending(True)


class Unmasked(nn.Module):
    def __init__(self, is_masked=True):
        super().__init__()
        self.dense, self.last, self.is_masked = nn.Linear(4, 3), nn.Linear(3, 2), is_masked

    def forward(self, x):
        y = self.dense(x)
        return self.last(y * (x != 0).any(-1, keepdim=True) if self.is_masked else y)


def masked():
    return Unmasked()


def masked_not():
    return Unmasked(False)


class DropPath(nn.Module):
    def __init__(self, rate, is_divided):
        super().__init__()
        self.rate, self.is_divided = rate, is_divided

    def forward(self, x):
        x = drop_path(x, self.rate, self.training)
        return x if self.is_divided or not self.training else x * (1 - self.rate)


class Celled(nn.Module):
    def __init__(self, is_divided=True, is_turned=False):
        super().__init__()
        self.steps, self.more, self.act = (
            nn.GRU(6, 4, batch_first=True),
            nn.Linear(4, 4),
            nn.PReLU(4),
        )
        self.share, self.logit = nn.Linear(4, 3), nn.Linear(4, 2)
        self.path, self.is_turned = DropPath(0.25, is_divided), is_turned

    def forward(self, x):
        x = self.steps(x)[0][:, -1]
        x = x + self.path(self.act(self.more(x)))
        ends = self.logit(x), self.share(x).softmax(-1)
        return ends[::-1] if self.is_turned else ends


def celled():
    return Celled()


def celled_undivided():
    return Celled(is_divided=False)


def celled_turned():
    return Celled(is_turned=True)


class Each(nn.Module):
    def __init__(self, is_folded=False):
        super().__init__()
        self.first, self.last, self.is_folded = nn.Linear(4, 6), nn.Linear(6, 3), is_folded

    def forward(self, x):
        y = self.first(x.flatten(0, 1) if self.is_folded else x)
        return self.last((y - y.mean(0, keepdim=True)).reshape(*x.shape[:2], -1))


def each():
    return Each()


def each_folded():
    return Each(is_folded=True)


class Deep(nn.Module):
    def __init__(self, is_dropped=False, is_moving=False):
        super().__init__()
        self.first, self.last, self.is_dropped = nn.Linear(6, 8), nn.Linear(8, 3), is_dropped
        self.is_moving = is_moving
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        y = self.first(x)
        if self.is_moving and self.training:
            self.mean.lerp_(y.detach().mean(0), 0.1)
        y = y if self.is_dropped and self.training else y + 0.5 * torch.tanh(y)
        return self.last(y - self.mean if self.is_moving and not self.training else y)


def deep():
    return Deep()


def deep_dropped():
    return Deep(is_dropped=True)


def deep_moving():
    return Deep(is_moving=True)


class Counted(nn.Module):
    def __init__(self, is_more=False):
        super().__init__()
        self.last, self.is_more = nn.Linear(12, 3), is_more

    def forward(self, x):
        return self.last(torch.cat([x, (x > 1 if self.is_more else x >= 1).to(x.dtype)], -1))


def counted():
    return Counted()


def counted_more():
    return Counted(is_more=True)


class Encoded(nn.Module):
    def __init__(self, is_nested=True):
        super().__init__()
        self.table, self.last = nn.Embedding(100, 16), nn.Linear(16, 3)
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=is_nested)

    def forward(self, ids):
        x = self.encoder(self.table(ids), src_key_padding_mask=ids == 0)
        return self.last(x.mean(1))


def encoded():
    return Encoded()


def bent(momentum=0.01):
    norm = nn.BatchNorm2d(4, eps=1e-3, momentum=momentum)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.GELU(), norm, pool, nn.Linear(4, 2))


def bent_momentum():
    return bent(0.1)
