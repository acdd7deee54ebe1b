"""Where layers and communicators meet: layout, schemes, sharded head, exchange of gradients."""
