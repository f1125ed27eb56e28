"""What is known of a request, a window and a version (pure): fields, counts, figures, redaction, the verdict's form."""
