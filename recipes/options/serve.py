"""Options of `rhapsode serve`."""

from dataclasses import dataclass

from .base import UserError, option


@dataclass
class ServeOptions:
    """An HTTP server that speaks OpenAI's protocol: POST /v1/chat/completions and /v1/completions, plain and streamed.
    It is transformers' own (`transformers serve`), told about Rhapsode's classes. Clients name the model as --model
    does, or not at all. Whoever reaches the port can use it, and make it load other models: it has no password."""

    EXAMPLES = (
        "rhapsode serve --model runs/demo/ppo",
        "rhapsode serve --model runs/demo/ppo --port 8080 --continuous_batching",
    )

    model: str = option("runs/sft", "directory or Hub id of the model that is served")
    host: str = option("127.0.0.1", "address to listen on; 0.0.0.0 is every machine that can reach this one")
    port: int = option(8000, "port to listen on; 0 takes a free one, which is printed")
    dtype: str = option("auto", "number format of the weights", ("auto", "float32", "bfloat16", "float16"))
    device: str = option("auto", "where the model is, such as cuda:0 or cpu")
    continuous_batching: bool = option(False, "requests share each forward pass, over a paged cache")
    cb_num_blocks: int | None = option(None, "blocks of that cache; none is by the memory there is")
    cb_max_batch_tokens: int | None = option(None, "tokens in one forward pass of that; none is by the memory there is")

    def __post_init__(self):
        if not 0 <= self.port < 65536:
            raise UserError(f"--port {self.port}; use 1 to 65535, or 0 for a free one")
        for name in ("cb_num_blocks", "cb_max_batch_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"--{name} {value} must be above 0")
            if value is not None and not self.continuous_batching:
                raise UserError(f"--{name} {value} needs --continuous_batching")
