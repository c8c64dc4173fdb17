"""Every keyword that the kit passes to TRL and to PEFT is one that the installed version takes (Unsloth's:
test_unsloth_parity.py, in the process that has it)."""

import passed_keywords
import peft
import pytest
import trl

from finer1_lib.training import sft, tapo as tapo_trainer

PASSED = passed_keywords.passed()


def test_the_source_is_really_read():
    assert all(cell["positional"] or cell["keywords"] for cell in PASSED.values()), "a callee was renamed"
    shared = {"optim", "adam_beta2", "save_steps", "gradient_checkpointing", "report_to"}
    assert shared <= PASSED["trl.SFTConfig"]["keywords"] & PASSED["trl.GRPOConfig"]["keywords"]
    assert {"num_generations", "top_k"} <= PASSED["trl.GRPOConfig"]["keywords"]
    loading = PASSED["unsloth.FastVisionModel.from_pretrained"]["keywords"]
    assert {"full_finetuning", "load_in_4bit"} <= loading
    assert {"reward_funcs", "tapo", "triplets"} <= PASSED["trl.GRPOTrainer"]["keywords"]
    with pytest.raises(AssertionError, match="cannot follow"):
        import ast

        passed_keywords._keywords(ast.parse("f(**options)").body[0].value, {})


@pytest.mark.parametrize("target, callable_", [
    ("trl.SFTConfig", trl.SFTConfig), ("trl.GRPOConfig", trl.GRPOConfig),
    ("trl.SFTTrainer", trl.SFTTrainer.__init__), ("trl.GRPOTrainer", trl.GRPOTrainer.__init__),
    ("peft.LoraConfig", peft.LoraConfig), ("peft.get_peft_model", peft.get_peft_model),
    ("peft.set_peft_model_state_dict", peft.set_peft_model_state_dict),
])
def test_the_installed_version_takes_what_we_pass(target, callable_):
    own = set()
    if target.endswith("Trainer"):
        kit = sft.make_sft_trainer_class() if "SFT" in target else tapo_trainer.make_tapo_trainer_class()
        own = passed_keywords.of_the_kits_own(kit, callable_)
        assert own == (set() if "SFT" in target else {"engine", "tapo", "triplets"})
    unknown = PASSED[target]["keywords"] - set(passed_keywords.accepted(callable_)) - own
    assert not unknown, f"{target} has no {', '.join(sorted(unknown))}"
    assert PASSED[target]["positional"] <= len(passed_keywords.accepted(callable_))
