//! Provides the prompts that the known families were trained with, for packages without a template.
//!
//! The templates expect messages whose content is a text that contains the image token. Sources:
//! the conversations in the LLaVA authors' repositories, and the model cards of the converted
//! checkpoints.

use crate::model::{Family, TextKind};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    Llava15,
    NextVicuna,
    NextMistral,
    NextYi,
    Llama3,
    NextLlama3,
    Qwen2,
}

impl Known {
    /// Returns the known template of a model, or `None` if there is none. Models with a Llama as
    /// text model use very different prompts; the tokens of their tokenizers distinguish them.
    pub fn of(family: Family, text: TextKind, knows: impl Fn(&str) -> bool) -> Option<Known> {
        let (chatml, headers) = (knows("<|im_start|>"), knows("<|start_header_id|>"));
        match (family, text) {
            (_, TextKind::Qwen2) if chatml => Some(Known::Qwen2),
            (Family::Llava, TextKind::Llama) if headers => Some(Known::Llama3),
            (Family::Llava, TextKind::Llama | TextKind::Mistral) if !chatml => Some(Known::Llava15),
            (Family::LlavaNext, TextKind::Llama) if headers => Some(Known::NextLlama3),
            (Family::LlavaNext, TextKind::Llama) if chatml => Some(Known::NextYi),
            (Family::LlavaNext, TextKind::Llama) => Some(Known::NextVicuna),
            (Family::LlavaNext, TextKind::Mistral) if !chatml => Some(Known::NextMistral),
            _ => None,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Known::Llava15 => "LLaVA-1.5",
            Known::NextVicuna => "LLaVA-NeXT with Vicuna",
            Known::NextMistral => "LLaVA-NeXT with Mistral",
            Known::NextYi => "LLaVA-NeXT with Hermes-Yi",
            Known::Llama3 => "LLaVA with Llama 3",
            Known::NextLlama3 => "LLaVA-NeXT with Llama 3",
            Known::Qwen2 => "LLaVA with Qwen2",
        }
    }

    pub fn template(self) -> String {
        match self {
            Known::Llava15 => VICUNA.into(),
            Known::NextVicuna => unless_told(VICUNA_SYSTEM) + VICUNA,
            Known::NextMistral => MISTRAL.into(),
            Known::NextYi => unless_told(YI_SYSTEM) + YI,
            Known::Llama3 => LLAMA_3.into(),
            Known::NextLlama3 => unless_told(LLAMA_3_SYSTEM) + LLAMA_3,
            Known::Qwen2 => unless_told(QWEN_SYSTEM) + QWEN,
        }
    }
}

/// Returns a template that adds the training's system message if no other is given.
fn unless_told(system: &str) -> String {
    format!("{{% if messages[0].role != 'system' %}}{system}{{% endif %}}\n")
}

/// The template of Vicuna. LLaVA-1.5 uses it without a system message, as its model cards do.
const VICUNA: &str = "\
{% for message in messages %}
{% if message.role == 'system' %}{{ message.content }} {% endif %}
{% if message.role == 'user' %}USER: {{ message.content }} {% endif %}
{% if message.role == 'assistant' %}ASSISTANT: {{ message.content }}{{ eos_token }}{% endif %}
{% endfor %}
{% if add_generation_prompt %}ASSISTANT:{% endif %}";

const VICUNA_SYSTEM: &str = "A chat between a curious human and an artificial intelligence \
    assistant. The assistant gives helpful, detailed, and polite answers to the human's questions. ";

const MISTRAL: &str = "\
{% for message in messages %}
{% if message.role == 'system' %}{{ raise_exception('no system message') }}{% endif %}
{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]{% endif %}
{% if message.role == 'assistant' %} {{ message.content }}{{ eos_token }}{% endif %}
{% endfor %}";

/// The template of Hermes-Yi, without line breaks between turns.
const YI: &str = "\
{% for message in messages %}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const YI_SYSTEM: &str = "<|im_start|>system\nAnswer the questions.<|im_end|>";

const QWEN: &str = "\
{% for message in messages %}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

const QWEN_SYSTEM: &str = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n";

const LLAMA_3: &str = "\
{% for message in messages %}
{{ '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' ~ message.content ~ '<|eot_id|>' }}{% endfor %}
{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}";

const LLAMA_3_SYSTEM: &str = "<|start_header_id|>system<|end_header_id|>\n\nYou are a helpful \
    language and vision assistant. You are able to understand the visual content that the user \
    provides, and assist the user with a variety of tasks using natural language.<|eot_id|>";
