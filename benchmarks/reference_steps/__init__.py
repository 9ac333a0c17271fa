"""Plain training steps: each method's mathematics and its published way of working, written from the papers.

They are what `benchmarks.steps` measures the program against, and what its losses are compared with in tests. Networks,
noise levels and tokenizers are those of the model's adapter; all that a step computes is written out here, with the
waste of the published scripts: images are decoded and encoded at every visit, prompts too, text features of rewards as
well, and nothing is kept between calls.
"""
