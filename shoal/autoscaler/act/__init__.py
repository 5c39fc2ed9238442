"""The autoscaler's effects: observe, remember (ledger), carry out, repeat. Decides nothing by itself."""
