"""The rule-based expert and the teacher's supervision."""
