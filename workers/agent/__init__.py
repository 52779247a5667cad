"""The loop and what it decides with: context, execution, limits, narration. It knows no provider, no HTTP and no SQL."""
