"""Text to ids and back: training tokenizers, special tokens, the chat template, and the one place that encodes."""

from .encoding import encode_conversation, encode_documents, encode_prompt, encode_texts
from .training import train_tokenizer
from .vocabulary import check_fits, token_ids

__all__ = [
    "check_fits",
    "encode_conversation",
    "encode_documents",
    "encode_prompt",
    "encode_texts",
    "token_ids",
    "train_tokenizer",
]
