"""A personal reply through LiteLLM, by the file that its proxy reads too."""

from pathlib import Path

import yaml
from litellm import Router

config = yaml.safe_load(Path(__file__).with_name("litellm_proxy.yaml").read_text("utf-8"))
messages = [{"role": "user", "content": "I need a place to stay in Paris."}]
reply = Router(model_list=config["model_list"]).completion(model="personalign", messages=messages, user="ada")
print(reply.choices[0].message.content, reply.personalign, sep="\n")
