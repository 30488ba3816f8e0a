"""What a model behind a server adds to the table: a second opinion, new problems, labels. Everything it says is checked."""
