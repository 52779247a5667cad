"""The loop and what it decides with: context, execution, limits, narration. No provider, no HTTP, no SQL."""
