"""A personal reply through LangChain, with the account of how it was steered."""

import os

from pydantic import SecretStr

from personalign.integrations.langchain import ChatPersonalign

key = SecretStr(os.environ["PERSONALIGN_KEY"])
chat = ChatPersonalign(base_url=os.environ["PERSONALIGN_URL"], api_key=key, user="ada")
reply = chat.invoke("I need a place to stay in Paris.")
print(reply.text, reply.response_metadata["personalign"], sep="\n")
