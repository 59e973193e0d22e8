"""The micro Qwen3-VL: its shape, a compact batched implementation for training, its tokenizer and its conversations.

Parameters bear the names of the hub (without the leading `model.`), so that exporting is copying. What is static here is
general in the real thing: every image is 48 x 48, so 36 patches become 9 visual tokens at fixed positions; a still
image fills both frames of a temporal patch, so the two halves of the patch embedding are added up.
"""

import math

import torch
import torch.nn as nn
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SIDE, PATCH, MERGE = 48, 8, 2
GRID = SIDE // PATCH
VISUAL_TOKENS = (GRID // MERGE) ** 2
VISION = dict(
    hidden_size=128, depth=4, num_heads=4, intermediate_size=512, patch_size=PATCH, temporal_patch_size=2,
    spatial_merge_size=MERGE, out_hidden_size=128, num_position_embeddings=GRID**2, deepstack_visual_indexes=[1],
)
TEXT = dict(
    hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2, head_dim=32,
    intermediate_size=384, rms_norm_eps=1e-6, rope_theta=5000000,
)
MROPE_SECTION = [6, 5, 5]  # temporal, height, width; interleaved

# ---------------------------------------------------------------------------------------------- vision


def vision_angles():
    """Rotary angles (36, 32): a quarter of the head's width for rows, a quarter for columns, and both again."""
    width = VISION["hidden_size"] // VISION["num_heads"] // 2
    inverse = 1.0 / 10000 ** (torch.arange(0, width, 2).float() / width)
    row, column = torch.meshgrid(torch.arange(GRID).float(), torch.arange(GRID).float(), indexing="ij")
    angles = torch.cat([row.reshape(-1, 1) * inverse, column.reshape(-1, 1) * inverse], 1)
    return torch.cat([angles, angles], 1)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class VisionAttention(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x, cos, sin):
        batch, tokens, width = x.shape
        q, k, v = self.qkv(x).view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v)
        return self.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


class VisionMlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.linear_fc1, self.linear_fc2 = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x):
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, width, heads, inner):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attn, self.mlp = VisionAttention(width, heads), VisionMlp(width, inner)

    def forward(self, x, cos, sin):
        x = x + self.attn(self.norm1(x), cos, sin)
        return x + self.mlp(self.norm2(x))


class Merger(nn.Module):
    """Four neighbouring patches to one visual token; `after` norms the four together."""

    def __init__(self, width, out, after):
        super().__init__()
        inner = width * MERGE**2
        self.after = after
        self.norm = nn.LayerNorm(inner if after else width, eps=1e-6)
        self.linear_fc1, self.linear_fc2 = nn.Linear(inner, inner), nn.Linear(inner, out)

    def forward(self, x):
        batch, _, width = x.shape
        half = GRID // MERGE
        blocks = lambda t: t.view(batch, half, MERGE, half, MERGE, width).transpose(2, 3).reshape(batch, half**2, -1)
        x = self.norm(blocks(x)) if self.after else blocks(self.norm(x))
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class PatchEmbed(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.proj = nn.Conv3d(3, width, (2, PATCH, PATCH), (2, PATCH, PATCH))

    def forward(self, x):
        return F.conv2d(x, self.proj.weight.sum(2), self.proj.bias, PATCH).flatten(2).transpose(1, 2)


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        width = VISION["hidden_size"]
        self.patch_embed = PatchEmbed(width)
        self.pos_embed = nn.Embedding(GRID**2, width)
        self.blocks = nn.ModuleList(
            VisionBlock(width, VISION["num_heads"], VISION["intermediate_size"]) for _ in range(VISION["depth"])
        )
        self.merger = Merger(width, VISION["out_hidden_size"], False)
        self.deepstack_merger_list = nn.ModuleList(
            Merger(width, VISION["out_hidden_size"], True) for _ in VISION["deepstack_visual_indexes"]
        )
        angles = vision_angles()
        self.register_buffer("cos", angles.cos(), persistent=False)
        self.register_buffer("sin", angles.sin(), persistent=False)

    def forward(self, images):
        """(N, 3, 48, 48) to the visual tokens (N, 9, 128) and what is added to them after the first text layers."""
        x = self.patch_embed(images) + self.pos_embed.weight
        deep = []
        for i, block in enumerate(self.blocks):
            x = block(x, self.cos, self.sin)
            if i in VISION["deepstack_visual_indexes"]:
                deep.append(self.deepstack_merger_list[len(deep)](x))
        return self.merger(x), deep


# ---------------------------------------------------------------------------------------------- text


def positions(before, length):
    """(3, length) positions of a conversation whose visual tokens start after `before` tokens."""
    side = GRID // MERGE
    start = torch.arange(before).expand(3, -1)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = torch.stack([torch.zeros(side**2, dtype=torch.long), row.flatten(), column.flatten()]) + before
    rest = torch.arange(length - before - side**2).expand(3, -1) + before + side
    return torch.cat([start, image, rest], 1)


def text_angles(at):
    """Rotary angles (length, head_dim) of positions (3, length): frequencies go to t, h, w in turn."""
    width = TEXT["head_dim"]
    inverse = 1.0 / TEXT["rope_theta"] ** (torch.arange(0, width, 2).float() / width)
    angles = at[..., None].float() * inverse
    mixed = angles[0].clone()
    for axis in (1, 2):
        chosen = slice(axis, MROPE_SECTION[axis] * 3, 3)
        mixed[:, chosen] = angles[axis][:, chosen]
    return torch.cat([mixed, mixed], 1)


class RmsNorm(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return F.rms_norm(x, self.weight.shape, self.weight, TEXT["rms_norm_eps"])


class TextAttention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.heads, self.groups, self.size = TEXT["num_attention_heads"], TEXT["num_key_value_heads"], TEXT["head_dim"]
        linear = lambda heads: nn.Linear(width, heads * self.size, bias=False)
        self.q_proj, self.k_proj, self.v_proj = linear(self.heads), linear(self.groups), linear(self.groups)
        self.o_proj = nn.Linear(self.heads * self.size, width, bias=False)
        self.q_norm, self.k_norm = RmsNorm(self.size), RmsNorm(self.size)

    def forward(self, x, cos, sin, wanted=None):
        """All positions, or only those `wanted` (N, A)."""
        batch, tokens, _ = x.shape
        k = rotate(self.k_norm(self.k_proj(x).view(batch, tokens, self.groups, self.size)).transpose(1, 2), cos, sin)
        v = self.v_proj(x).view(batch, tokens, self.groups, self.size).transpose(1, 2)
        k, v = (t.repeat_interleave(self.heads // self.groups, 1) for t in (k, v))
        mask = None
        if wanted is not None:
            x = pick(x, wanted)
            mask = torch.arange(tokens) <= wanted[:, None, :, None]
            cos, sin = cos[wanted][:, None], sin[wanted][:, None]
        q = self.q_norm(self.q_proj(x).view(batch, x.shape[1], self.heads, self.size)).transpose(1, 2)
        mixed = F.scaled_dot_product_attention(rotate(q, cos, sin), k, v, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(mixed.transpose(1, 2).reshape(batch, x.shape[1], -1))


class TextMlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(width, inner, bias=False), nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class TextLayer(nn.Module):
    def __init__(self):
        super().__init__()
        width = TEXT["hidden_size"]
        self.input_layernorm, self.post_attention_layernorm = RmsNorm(width), RmsNorm(width)
        self.self_attn, self.mlp = TextAttention(width), TextMlp(width, TEXT["intermediate_size"])

    def forward(self, x, cos, sin, wanted=None):
        kept = x if wanted is None else pick(x, wanted)
        x = kept + self.self_attn(self.input_layernorm(x), cos, sin, wanted)
        return x + self.mlp(self.post_attention_layernorm(x))


def pick(x, wanted):
    return x.gather(1, wanted[..., None].expand(-1, -1, x.shape[-1]))


class LanguageModel(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embed_tokens = nn.Embedding(vocabulary, TEXT["hidden_size"])
        self.layers = nn.ModuleList(TextLayer() for _ in range(TEXT["num_hidden_layers"]))
        self.norm = RmsNorm(TEXT["hidden_size"])

    def forward(self, ids, before, visual, deep, wanted):
        """Normed states (N, A, 128) at the positions `wanted`; visual tokens follow the first `before` tokens."""
        angles = text_angles(positions(before, ids.shape[1]))
        cos, sin = angles.cos(), angles.sin()
        x = self.embed_tokens(ids)
        x = torch.cat([x[:, :before], visual, x[:, before + VISUAL_TOKENS :]], 1)
        around = (0, 0, before, ids.shape[1] - before - VISUAL_TOKENS)
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, wanted if i == len(self.layers) - 1 else None)
            if i < len(deep):
                x = x + F.pad(deep[i], around)
        return self.norm(x)

    def logits(self, states):
        return F.linear(states, self.embed_tokens.weight)


class MicroVlm(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.visual, self.language_model = Visual(), LanguageModel(vocabulary)
        for name, parameter in self.named_parameters():
            if parameter.ndim > 1:
                # residual outputs start smaller, as there are two per layer
                out = name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight", "mlp.linear_fc2.weight"))
                fan_in = parameter[0].numel()
                std = 0.05 if "embed" in name and "patch" not in name else 0.6 / math.sqrt(fan_in)
                nn.init.normal_(parameter, std=std / (math.sqrt(8) if out else 1))
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)


def warm_start(visual, dinov2):
    """Put micro-dinov2 (tensors of its hub folder) into a vision tower.

    LayerScale goes into the projections, the normalisation of pixels (ImageNet there, 0.5 here) and the two frames into
    the patch embedding, the final norm into the merger's. CLS is dropped; rotary positions and the tanh form of GELU are
    new to the weights, and training adapts them.
    """
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
    weight = dinov2["embeddings.patch_embeddings.projection.weight"]
    state = {
        "patch_embed.proj.weight": (weight * 0.5 / std / 2)[:, :, None].expand(-1, -1, 2, -1, -1).clone(),
        "patch_embed.proj.bias": dinov2["embeddings.patch_embeddings.projection.bias"]
        + (weight * (0.5 - mean) / std).sum((1, 2, 3)),
        "pos_embed.weight": dinov2["embeddings.position_embeddings"][0, 1:],
        "merger.norm.weight": dinov2["layernorm.weight"],
        "merger.norm.bias": dinov2["layernorm.bias"],
    }
    for i in range(VISION["depth"]):
        theirs, ours = f"encoder.layer.{i}", f"blocks.{i}"
        for kind in ("weight", "bias"):
            scale = lambda n: dinov2[f"{theirs}.layer_scale{n}.lambda1"].view(-1, *[1] * (kind == "weight"))
            state[f"{ours}.attn.qkv.{kind}"] = torch.cat(
                [dinov2[f"{theirs}.attention.attention.{name}.{kind}"] for name in ("query", "key", "value")]
            )
            state[f"{ours}.attn.proj.{kind}"] = dinov2[f"{theirs}.attention.output.dense.{kind}"] * scale(1)
            state[f"{ours}.mlp.linear_fc1.{kind}"] = dinov2[f"{theirs}.mlp.fc1.{kind}"]
            state[f"{ours}.mlp.linear_fc2.{kind}"] = dinov2[f"{theirs}.mlp.fc2.{kind}"] * scale(2)
            for norm in ("norm1", "norm2"):
                state[f"{ours}.{norm}.{kind}"] = dinov2[f"{theirs}.{norm}.{kind}"]
    left_out = visual.load_state_dict(state, strict=False)
    assert not left_out.unexpected_keys and all("merger" in key for key in left_out.missing_keys), left_out


# ---------------------------------------------------------------------------------------------- language

QUESTION = "What is the name of the subject in this photo?"
PREFILL = "The subject in this photo is:"
SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
IS_IT = "Is the subject in this photo {}?"
WRITE = "Write the words {}."
YES, NO = "Yes", "No"
# A concept's name is its identifier with spaces for hyphens, but for these.
SPELLED = {
    "pi-ata": "pinata", "rescue-worker-s-helmet": "rescue worker's helmet", "t-shirt": "t-shirt", "t-rex": "t-rex",
    "x-ray": "x-ray", "yo-yo": "yo-yo", "e-mail": "e-mail", "jack-o-lantern": "jack-o-lantern",
}


def name_of(concept):
    return SPELLED.get(concept, concept.replace("-", " "))


def conversation(question, answer):
    """A user's turn with an image and the model's turn as far as it goes, as the chat template writes it."""
    image = "<|vision_start|>" + "<|image_pad|>" * VISUAL_TOKENS + "<|vision_end|>"
    return f"<|im_start|>user\n{image}{question}<|im_end|>\n<|im_start|>assistant\n{answer}"


def train_tokenizer(names, merges, least):
    """Byte-level BPE as Qwen3's. Pieces of names must occur in `least` of them; the words of the prompts are whole."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    byte_level = dict(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), pre_tokenizers.ByteLevel(**byte_level)]
    )
    tokenizer.decoder = decoders.ByteLevel(**byte_level, trim_offsets=False)
    tokenizer.post_processor = processors.ByteLevel(**byte_level, trim_offsets=False)
    prompts = ["user\n", "assistant\n", "system\n", QUESTION, PREFILL, IS_IT.format(""), WRITE.format(""), YES, NO]
    texts = [" " + name for name in names] + prompts * 2 * least
    trainer = trainers.BpeTrainer(
        vocab_size=256 + merges, min_frequency=least, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in SPECIAL])
    return tokenizer
