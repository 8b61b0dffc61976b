"""Texts that try to break a tokenizer, for hypothesis."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from rhapsode.tokenization.special_tokens import BREAKER, SPECIAL_TOKENS, UNK

# No deadline: the first example pays for caches. Each failure prints how to repeat it.
thorough = settings(
    max_examples=80,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

FRAGMENTS = (
    *SPECIAL_TOKENS,
    UNK,
    *("<", "|", ">", "<|", "|>", "<|eos", "eos|>", "<<|", "\u2581", "\u0120", "</s>", "<s>", "<|endoftext|>"),
    *(BREAKER, f"<{BREAKER}", f"<{BREAKER}|", f"<{BREAKER}{BREAKER}|eos|>", "\ufdd1", "<\ufdd1|eos|>"),
    *("\n", "\r\n", "\n    ", "\n\t\t", "    ", ":\n", " ", "\u3000", "\x00", "\x1b[0m", "\u200b", "\ufeff"),
    *(
        "1234567",
        "0",
        "\u0663\u0664",
        "def ",
        "return",
        "_name",
        "##x",
        "it's",
        "\U0001f469\u200d\U0001f680",
        "e\u0301",
    ),
    *("{%", "%}", "{{ bos_token }}", "{% endgeneration %}", "CONTINUE_FINAL_MESSAGE_TAG "),
)

fragments = st.sampled_from(FRAGMENTS)
hostile_text = st.lists(fragments | st.text(max_size=8), max_size=12).map("".join)
