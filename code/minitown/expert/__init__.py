"""The rule-based expert, the teacher's BEV masks and the network that stands in for the teacher."""
