"""One page on finished runs: verdicts in words, tables, figures, and what they rest on."""
