"""The paper's quantities: protocol, gates, baselines, scores, G, C and the gap between them."""
