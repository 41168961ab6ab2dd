"""VLMEvalKit's files and rules: its tables of questions, its prompts, and how it reads an answer out of a reply."""
