"""Talking-Critic at full size: the Qwen2.5-Omni thinker, perhaps with a LoRA of ours, on whole clips.

All questions are answered in one pass: [clip] [question 1] [question 2] ... where a question sees the clip
and itself, not the others. So the clip is encoded once, and tuning and scoring are the same computation.

Shapes: N clips, K questions, F frames, H W 3 pixels, L tokens of the clip and its frame, Q of everything, D
width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedTokenizerFast

from ft2ray.critic.base import LogitCritic
from ft2ray.critic.omni.card import OmniCard, read_card
from ft2ray.critic.omni.folder import PromptTemplate, load_thinker, load_tokenizer, processor_of, read_prompt
from ft2ray.critic.omni.lora import attach_adapter
from ft2ray.critic.omni.whole_clip import WholeClip
from ft2ray.critic.processor import ProcessorConfig, audio_token_count, log_mel, patches, sounding_video
from ft2ray.critic.questions import VIDEO, answer_token_ids
from ft2ray.critic.talking.model import Thinker
from ft2ray.errors import UserError


@dataclass(frozen=True, eq=False)
class Reader:
    """A thinker with everything that turns a clip and questions into logits."""

    model: Thinker
    tokenizer: PreTrainedTokenizerFast
    processor: ProcessorConfig
    prompt: PromptTemplate

    @classmethod
    def load(cls, folder: Path, card: OmniCard, device: torch.device | str) -> Reader:
        """The untuned thinker of `folder`, asked as `card` says; ValueError as in `omni_folder`."""
        model = load_thinker(folder, device)
        tokenizer = load_tokenizer(folder, model.config)
        return cls(
            model, tokenizer, processor_of(model.config, card.fps), read_prompt(tokenizer, card.questions)
        )

    def answers(self, clip: WholeClip) -> torch.Tensor:
        """Logits of the word that follows each question: [K, V].

        Raises:
            ValueError: for more tokens than the model was made for.
        """
        pixels_SE, grid = patches(clip.frames_FHW3, self.processor, still=False)
        mel_MJ = torch.from_numpy(log_mel(clip.wav_T, self.processor))
        ids_Q, position_3Q, owner_Q = self._layout(grid, mel_MJ.shape[1])
        model, device = self.model, self.model.device
        most = model.config.get_text_config().max_position_embeddings
        if len(ids_Q) > most:
            raise UserError(
                f"the clip gives {len(ids_Q)} tokens, the critic takes {most}; cut it or lower critic.pixels"
            )
        dtype = model.dtype
        with torch.no_grad():  # the towers stay as they are, in tuning too
            seen_ND = model.model.visual(
                pixels_SE.to(device, dtype), grid_thw=torch.tensor([grid], device=device)
            ).pooler_output
            heard_ND = model.model.audio_tower(
                mel_MJ.to(device, dtype), feature_lens=torch.tensor([mel_MJ.shape[1]], device=device)
            ).last_hidden_state
            embeds_QD = model.get_input_embeddings()(ids_Q.to(device))
            for token, tokens_ND in (
                (model.config.video_token_id, seen_ND),
                (model.config.audio_token_id, heard_ND),
            ):
                where = torch.where(ids_Q == token)[0].to(device)
                assert len(where) == len(tokens_ND), (token, len(where), tokens_ND.shape)
                embeds_QD = embeds_QD.index_copy(0, where, tokens_ND)
        hidden_QD = model.model.language_model(
            inputs_embeds=embeds_QD[None],
            position_ids=position_3Q[:, None].to(device),
            attention_mask=question_mask(owner_Q.to(device)),
            use_cache=False,
        ).last_hidden_state[0]
        ends = torch.where(owner_Q.diff(append=owner_Q.new_tensor([-1])) != 0)[0]
        return model.lm_head(hidden_QD[ends[1:].to(device)])  # the first end is the clip's

    def _layout(
        self, grid: tuple[int, int, int], mel_frames: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Token ids [Q], their rotary positions [3, Q], and whose each is: 0 the clip's, k question k's."""
        video = sounding_video(grid, audio_token_count(mel_frames), self.processor)
        clip = self._encode(self.prompt.prefix.replace(VIDEO, video))
        position_31L, _ = self.model.model.get_rope_index(
            torch.tensor([clip]),
            video_grid_thw=torch.tensor([grid]),
            attention_mask=torch.ones(1, len(clip), dtype=torch.long),
            use_audio_in_video=True,
            audio_seqlens=torch.tensor([mel_frames]),
            second_per_grids=torch.tensor([self.processor.temporal_patch_size / self.processor.fps]),
        )
        ids, owners, positions = list(clip), [0] * len(clip), [position_31L[:, 0]]
        after = int(position_31L.max()) + 1
        for k, ending in enumerate(self.prompt.endings, 1):
            question = self._encode(ending)
            ids += question
            owners += [k] * len(question)
            positions.append(after + torch.arange(len(question)).expand(3, -1))
        return torch.tensor(ids), torch.cat(positions, dim=1), torch.tensor(owners)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)


def question_mask(owner_Q: torch.Tensor) -> torch.Tensor:
    """Who may see whom, bool [1, 1, Q, Q]: what came before, of the clip and of one's own question."""
    place = torch.arange(len(owner_Q), device=owner_Q.device)
    own = (owner_Q == 0)[None] | (owner_Q[:, None] == owner_Q[None])
    return ((place[None] <= place[:, None]) & own)[None, None]


class OmniCritic(LogitCritic):
    """The thinker as a critic: P(Yes) = softmax over the logits of Yes and No."""

    def __init__(self, reader: Reader, card: OmniCard) -> None:
        self.reader, self.card = reader, card
        self.dimensions, self.fingerprint = card.dimensions, card.fingerprint
        self.viewer, self.scaling, self.calibration = card.viewer, card.scaling, card.calibration

    @classmethod
    def load(
        cls,
        path: str | Path,
        fps: float | None = None,
        pixels: int | None = None,
        questions: Mapping[str, str] | None = None,
        device: torch.device | str | None = None,
    ) -> OmniCritic:
        """A Qwen2.5-Omni folder as it is, or a tuned critic's folder (see `ft2ray.critic.omni.card`).

        fps, pixels, questions: see `read_card`. device: None takes the current GPU
        where there is one.

        Raises:
            ValueError: for files that are missing, damaged or do not belong together.
        """
        if device is None:
            device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else "cpu"
        card = read_card(path, fps, pixels, questions)
        reader = Reader.load(card.base, card, device)
        if card.adapter is not None:
            attach_adapter(reader.model, card)
        return cls(reader, card)

    @torch.inference_mode()
    def margins(self, views: Sequence[WholeClip]) -> np.ndarray:
        """Logit of Yes minus logit of No before any scaling: float64 [N, K]."""
        yes, no = answer_token_ids(self.reader.tokenizer)
        margin_NK = np.empty((len(views), len(self.dimensions)))
        for index, clip in enumerate(views):
            logit_KV = self.reader.answers(clip).double()
            margin_NK[index] = (logit_KV[:, yes] - logit_KV[:, no]).cpu().numpy()
        return margin_NK


def answer_loss(reader: Reader, clip: WholeClip, label_K: np.ndarray) -> torch.Tensor:
    """Cross-entropy of the answer token over the questions whose label (1, 0, NaN unknown) is known."""
    yes, no = answer_token_ids(reader.tokenizer)
    known = ~np.isnan(label_K)
    logit_KV = reader.answers(clip)[torch.from_numpy(known)]
    target_K = torch.tensor([yes if label == 1 else no for label in label_K[known]], device=logit_KV.device)
    return F.cross_entropy(logit_KV.float(), target_K)
