"""`headway plan`: what a recipe will need and cost, before anything is paid."""
