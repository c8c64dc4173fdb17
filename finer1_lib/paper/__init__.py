"""The paper's figures as facts, and what may stand beside them."""


