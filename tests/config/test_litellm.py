"""Unusual LiteLLM configurations: what can be translated is, and the rest is listed."""

import pytest

from gproxy.config import litellm

ENTRY = "model_list: [{model_name: m, litellm_params: {model: openai/gpt-4}}]\n"


@pytest.mark.parametrize(
    "settings",
    [
        "litellm_settings: {fallbacks: [{m: null}]}",
        "litellm_settings: {fallbacks: 5}",
        "litellm_settings: [1]",
        "router_settings: {model_group_alias: [a]}",
        "router_settings: {model_group_alias: {a: {model: [x]}}}",
        "general_settings: text",
        "router_settings: {fallbacks: {a: b}}",
        "litellm_settings: {fallbacks: [{m: [[1]]}]}",
        "litellm_settings: {fallbacks: [{m: [{model: m, messages: []}]}]}",
    ],
)
def test_unusual_settings_do_not_stop_the_translation(settings):
    document, skipped = litellm.translate(ENTRY + settings)
    assert [one["alias"] for one in document["model_aliases"]][:1] == ["m"]
    assert isinstance(skipped, list)


@pytest.mark.parametrize(
    "params",
    [
        "{model: openai/gpt-4, api_base: 5}",
        "{model: openai/gpt-4, api_base: [x]}",
        "{model: openai/x, api_base: 'http://[bad'}",
        "{model: openai/x, api_key: [1]}",
        "{model: openai/x, rpm: yes}",
        "{model: '/'}",
        "{model: openai/x, weight: 5000}",
        "{1: 2, a: 3, model: openai/x}",
        "{model: openai/x, api_key: {a: 1}}",
    ],
)
def test_unusual_parameters_are_translated_or_listed(params):
    document, skipped = litellm.translate(f"model_list: [{{model_name: m, litellm_params: {params}}}]\n")
    assert document or skipped
