"""Options of `rhapsode demo`."""

from dataclasses import dataclass

from .base import check_positive, option


@dataclass
class DemoOptions:
    """From raw text to a published model and to an assistant, offline, on the standard library of this Python. A base
    model of about 10M parameters is trained, measured against a 5-gram and gzip, and exported. A smaller one learns to
    answer questions about the library and to say what it does not know: SFT, a reward model, PPO and DPO, measured
    alike, and a short chat. Two stations run at a time; a demo that was interrupted goes on with what is left."""

    EXAMPLES = (
        "rhapsode demo",
        "rhapsode demo --max_seconds 30 --effort 0.1",
    )

    output_dir: str = option("runs/demo", "directory of everything that the demo makes")
    overwrite_output_dir: bool = option(False, "delete what an earlier demo left there, and begin anew")
    max_seconds: float = option(480.0, "time for the training steps of the base model, in seconds")
    objects: int = option(200, "as many objects of the library are divided into those to learn and those held out")
    effort: float = option(
        1.0, "share of the assistant's training and measurement; 0.1 is a quick look at how it works"
    )
    seed: int = option(0, "of weights, data order and samples")

    def __post_init__(self):
        check_positive(self, "max_seconds", "objects", "effort")

    @property
    def resume(self) -> bool:
        return not self.overwrite_output_dir
