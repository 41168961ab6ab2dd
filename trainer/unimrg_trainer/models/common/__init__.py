"""What several families use: Qwen2, tokenizers, frozen files, pixels. Nothing here knows a family."""
