"""What the alignment commands share. `datasets` and `judge` are the way in; the data in the order of use:

library, library_cache      what the standard library documents
recombination               names that it does not have
questions, conversations    questions about both, and the chats they are asked in
preferences                 pairs of a better and a worse answer
rows, checks                the same from files and the Hub, refused in one line where a row is wrong
models, adapters, lengths   what is trained, and on how long rows
directory, identity, training    a run of one of trl's trainers
answering, evaluation, ranking, outcome, report, curves      what has become of it
knowledge, knowledge_report what a model knows, by asking it several times
classification_report       what only the report of a classifier has
reward_functions, online    rewards by name; what learns from sampled answers
distillation                a teacher's distribution for a student's
arithmetic, tool_conversations, tool_use    chats that call tools, and whether a model calls them right
"""
