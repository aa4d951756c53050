"""Pure numerics: tensors in, tensors out; no files, no schemas, no logs."""
