"""Documents (`corpus`, `readers`) and the rows of token ids that training reads (`tokens`)."""
