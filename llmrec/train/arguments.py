"""What the loop of transformers is told, from the recipe's part of a training stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import TrainingArguments

from llmrec.errors import ModelError
from llmrec.recipe import Training
from llmrec.train import together


def arguments(stage: Training, seed: int, work: Path, report_to: Sequence[str] = ()) -> TrainingArguments:
    """Arguments of the loop.

    Args:
        stage: the recipe's part.
        seed: of order and dropout.
        work: folder for checkpoints.
        report_to: names of trackers.

    Raises:
        ModelError: the rows of a step do not divide over the processes.
    """
    try:
        share = stage.pass_rows(together.world())
    except ValueError as error:
        raise ModelError(f"train.N.{error}.") from None
    return TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=share,
        gradient_accumulation_steps=stage.accumulate,
        gradient_checkpointing=stage.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        num_train_epochs=stage.epochs,
        learning_rate=stage.learning_rate,
        weight_decay=stage.weight_decay,
        adam_beta2=0.98,
        max_grad_norm=1.0,
        lr_scheduler_type="cosine",
        warmup_steps=stage.warmup,
        bf16=stage.precision == "bf16",
        use_cpu=not torch.cuda.is_available(),
        average_tokens_across_devices=True,  # the loss is the mean over the tokens of a whole step, whoever holds them
        ddp_find_unused_parameters=False,
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide the loss that `Watch` stops on
        save_steps=stage.save_every,
        save_total_limit=2,
        remove_unused_columns=False,
        dataloader_num_workers=0,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        report_to=list(report_to),
        project="llmrec",
        run_name=f"{work.parent.parent.name} {work.name}",
        disable_tqdm=True,
    )
