"""GGUF read by the definition of its format rather than by a library, and a package with a small model in it."""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
F32, Q4_1, Q8_0 = 0, 3, 8


class GGUF:
    """`fields`: what the header says; `tensor(name)`: float32, the fastest dimension last."""

    def __init__(self, path):
        self.bytes, self.place = path.read_bytes(), 8
        tensors, fields = self._next("Q"), self._next("Q")
        self.fields = {self._text(): self._value(self._next("I")) for _ in range(fields)}
        self.tensors = {}
        for _ in range(tensors):
            name = self._text()
            shape = [self._next("Q") for _ in range(self._next("I"))]
            self.tensors[name] = shape[::-1], self._next("I"), self._next("Q")
        self.start = -(-self.place // 32) * 32

    def _next(self, kind):
        [value] = struct.unpack_from(f"<{kind}", self.bytes, self.place)
        self.place += struct.calcsize(kind)
        return value

    def _text(self):
        length = self._next("Q")
        self.place += length
        return self.bytes[self.place - length : self.place].decode()

    def _value(self, kind):
        if kind == 8:
            return self._text()
        if kind == 9:
            kind, length = self._next("I"), self._next("Q")
            return [self._value(kind) for _ in range(length)]
        return self._next(SCALARS[kind])

    def tensor(self, name):
        shape, kind, offset = self.tensors[name]
        count = math.prod(shape)
        parts = {
            F32: [("x", "<f4")],
            Q8_0: [("d", "<f2"), ("q", "i1", 32)],
            Q4_1: [("d", "<f2"), ("m", "<f2"), ("q", "u1", 16)],
        }[kind]
        block = np.frombuffer(self.bytes, parts, count // (1 if kind == F32 else 32), self.start + offset)
        if kind == F32:
            return torch.tensor(block["x"]).view(shape)
        numbers = block["q"] if kind == Q8_0 else np.concatenate([block["q"] & 15, block["q"] >> 4], 1)
        weights = numbers * block["d"].astype("f4")[:, None]
        if kind == Q4_1:
            weights = weights + block["m"].astype("f4")[:, None]
        return torch.tensor(weights).view(shape)


PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def names(layers: int) -> dict[str, str]:
    """Name of a tensor in a checkpoint of transformers' Llama -> its name in GGUF."""
    of_layers = {
        f"model.layers.{layer}.{ours}.weight": f"blk.{layer}.{its}.weight"
        for layer in range(layers)
        for ours, its in PLACES.items()
    }
    return {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight", **of_layers}


def halves(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """From the pairs of coordinates that are rotated side by side, as in GGUF, to the halves of each head, as in transformers."""
    return weight.view(heads, -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


def pairs(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """The other way round."""
    return weight.view(heads, 2, -1, weight.shape[1]).transpose(1, 2).reshape(weight.shape)


SMALL = {
    "model_type": "llama",
    "vocab_size": 260,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
}


def small_package(site: Path) -> LlamaForCausalLM:
    """Install `a-llama` 1.0 there, with a small Llama in float32; returns that Llama. Its tokens are bytes."""
    import gguf

    (site / "a_llama").mkdir(parents=True)
    (site / "a_llama-1.0.dist-info").mkdir()
    (site / "a_llama-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: a-llama\nVersion: 1.0\n")
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMALL))
    writer = gguf.GGUFWriter(site / "a_llama" / "a.gguf", "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    letters = [chr(i) if chr(i).isprintable() and i != 32 else chr(256 + i) for i in range(256)]
    writer.add_token_list(["<end>", *letters, "th", "in", "he"])
    writer.add_token_types([3, *[1] * 259])
    writer.add_token_merges(["t h", "i n", "h e"])
    for add in (writer.add_bos_token_id, writer.add_eos_token_id, writer.add_unk_token_id):
        add(0)
    weights = model.state_dict()
    for ours, its in names(2).items():
        heads = {"attn_q": 4, "attn_k": 2}.get(its.split(".")[-2])
        writer.add_tensor(its, (pairs(weights[ours], heads) if heads else weights[ours]).numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return model
