"""From text to the rows of token ids that training reads. `rows` is the way in; the rest, in the order of use:

corpus, readers, hub   documents, from files and from the Hub
tokens, parallel       documents as a stream of ids, made by one process or several
shards, building       the same on disk: mapped into memory, made once
identity               what a shard is made of, by which it is found again
packing, layout        which tokens stand in which row, and what keeps the documents of a row apart
mixture                the endless shuffled sequence of rows, from one source or several
sources, streaming     rows that are made while training
words                  a text as words, for scores and for search
"""
