"""What vLLM calls when it starts, in every process: the entry point `rhapsode` of `vllm.general_plugins`.

vLLM runs a model that it has no code for through its Transformers backend: it builds our backbone and puts its own
attention, embedding and parallel linear layers into it. It has to know that the class exists; where Rhapsode is not
installed, an exported directory and `--trust-remote-code` do the same.
"""

BACKEND = "vllm.model_executor.models.transformers:TransformersForCausalLM"  # by name: importing it here costs seconds


def register() -> None:
    """Tell transformers and vLLM about the classes; may be called again."""
    import rhapsode  # noqa: F401  # registers them with the Auto classes
    from transformers import AutoConfig  # noqa: F401  # which it does when those are there
    from vllm import ModelRegistry

    if "RhapsodeForCausalLM" not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model("RhapsodeForCausalLM", BACKEND)
