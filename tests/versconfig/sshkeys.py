"""Public keys for tests, as ssh-keygen writes them."""

ED25519 = (
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHo5UTa3UGk0a//0+MVAlQh/yyvPTMmA9gd/spaw+GOR ada@example"
)
OTHER = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHo5UTa3UGk0a//0+MVAlQh/yyvPTMmA9gd/spaw+GAA"
