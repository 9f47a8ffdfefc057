"""From records as they are given to records that training and scoring can trust. Everything that changes is counted."""
