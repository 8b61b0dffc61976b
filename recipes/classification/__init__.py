"""What `rhapsode classify` is made of.

labels      what the labels of a table mean: classes, several at once, or numbers
tables      rows of files, of the Hub and of the standard library
encoding    one or two texts as ids, whose last one is that which the head reads
training    the loss, with the language model's beside it, in transformers' Trainer
measures    accuracy, F1 and correlations, against the answer that needs no text
"""
