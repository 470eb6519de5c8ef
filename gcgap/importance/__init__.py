"""What a gradient says of a component (`gradient`) and what the component causes (`causal`), one file per measure."""
