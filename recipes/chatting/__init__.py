"""What a chat is made of, from the inside out; `recipes/chat.py` is the chat itself.

calls                       what the model has written: text, and calls of tools
tools, calculator           functions that it may call, and one of them
passages, retrieval         documents cut into passages, found by BM25, numbered and cited
turn                        from a question to its answer, over as many rounds of calls as it takes
conversation                what has been said, and what of it the model still sees
writing, streaming          the model writes; each word is shown as soon as it is there
session, commands           all of it together, and what begins with a slash
"""
