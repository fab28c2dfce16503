"""Models and their tokenizers: what names one, its identity, sizes, ids, and how it is loaded.

`ref.ModelRef` names a model; `cache.load_tokenizer` and `tokenizer.Tokenizer`;
`tokens.TokenBuilder` makes ids and spans of texts; `shape` and `weights` read headers alone;
`load.load_model` and `merge` load weights, and import torch; `prepare` gives a model the pause
token.
"""
