"""Runs in the environment of the instrumentations: `drive.py DIALECT MODEL_URL OTLP_URL` runs every scenario of a dialect and prints, for each,
a line of JSON: scenario, begun, ended (seconds since 1970), and what went wrong that should not have.

Each dialect instruments as its own documentation says, and exports span by span over OTLP/HTTP.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

DIALECT, MODEL_URL, OTLP_URL = sys.argv[1:4]
os.environ |= {
    "OPENAI_API_KEY": "none", "OPENAI_BASE_URL": MODEL_URL, "OTEL_SERVICE_NAME": "support", "OTEL_EXPORTER_OTLP_ENDPOINT": OTLP_URL,
    "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{OTLP_URL}/v1/traces",
    "TRACELOOP_TELEMETRY": "false", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1",
    "SEMANTICKERNEL_EXPERIMENTAL_GENAI_ENABLE_OTEL_DIAGNOSTICS": "true", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}  # fmt: skip
TIMEOUT_S = 0.4
ASKED = "weather in Paris?"
SYSTEM = "Be brief."
MESSAGES = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": ASKED}]
Scenarios = dict[str, Callable[[], Any]]
FAILING = ("429", "500", "time-out")


def provider() -> Any:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    made = TracerProvider(resource=Resource.create({"service.name": "support"}))
    made.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{OTLP_URL}/v1/traces")))
    trace.set_tracer_provider(made)
    return made


def with_openai() -> Scenarios:
    """OpenAI's own client, whoever instruments it."""
    from openai import OpenAI

    def ask(model: str, retries: int = 0, **more: Any) -> Any:
        client = OpenAI(max_retries=retries, timeout=TIMEOUT_S if model == "slow" else 30)
        return client.chat.completions.create(model=model, messages=MESSAGES, **more)

    def stream() -> None:
        for _ in ask("ok", stream=True, stream_options={"include_usage": True}):
            pass

    weather = {
        "type": "function",
        "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
    }
    return {
        "success": lambda: ask("ok"), "429": lambda: ask("m-429"), "500": lambda: ask("m-500"), "time-out": lambda: ask("slow"), "streamed": stream,
        "tool asked for": lambda: ask("tool", tools=[weather]), "retry": lambda: ask("flaky", retries=2),
    }  # fmt: skip


def openai_v2() -> Scenarios:
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=provider())
    return with_openai()


def openai_v2_latest() -> Scenarios:
    """With the conventions of today: texts as log events."""
    os.environ |= {
        "OTEL_SEMCONV_STABILITY_OPT_IN": "gen_ai_latest_experimental", "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "EVENT_ONLY",
        "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT": "true",
    }  # fmt: skip
    from opentelemetry import _logs
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
    from opentelemetry.sdk.resources import Resource

    logs = LoggerProvider(resource=Resource.create({"service.name": "support"}))
    logs.add_log_record_processor(SimpleLogRecordProcessor(OTLPLogExporter(endpoint=f"{OTLP_URL}/v1/logs")))
    _logs.set_logger_provider(logs)
    OpenAIInstrumentor().instrument(tracer_provider=provider(), logger_provider=logs)
    return with_openai()


def openllmetry() -> Scenarios:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from traceloop.sdk import Traceloop
    from traceloop.sdk.decorators import task, tool, workflow

    Traceloop.init(
        app_name="support",
        disable_batch=True,
        exporter=OTLPSpanExporter(endpoint=f"{OTLP_URL}/v1/traces"),
        telemetry_enabled=False,
    )
    scenarios = with_openai()

    @tool(name="weather")
    def weather(city: str) -> str:
        return f"warm in {city}"

    @task(name="plan")
    def plan() -> None:
        scenarios["success"]()

    @workflow(name="support_flow")
    def run() -> None:
        plan()
        weather("Paris")
        scenarios["success"]()

    @workflow(name="support_flow")
    def fail() -> None:
        scenarios["500"]()

    return scenarios | {"nested": run, "nested, failing": fail}


def langchain() -> Scenarios:
    from openinference.instrumentation.langchain import LangChainInstrumentor

    LangChainInstrumentor().instrument(tracer_provider=provider())
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from langgraph.prebuilt import create_react_agent

    @tool
    def weather(city: str) -> str:
        """Weather of a city."""
        return f"warm in {city}"

    def llm(model: str, **more: Any) -> Any:
        return ChatOpenAI(
            model=model, max_retries=more.pop("retries", 0), timeout=TIMEOUT_S if model == "slow" else 30, **more
        )

    def agent(model: str) -> Any:
        return create_react_agent(llm(model), [weather]).invoke({"messages": [("user", ASKED)]})

    def stream() -> None:
        for _ in llm("ok", stream_usage=True).stream(ASKED):
            pass

    return {
        "success": lambda: llm("ok").invoke(MESSAGES), "429": lambda: llm("m-429").invoke(MESSAGES), "500": lambda: llm("m-500").invoke(MESSAGES),
        "time-out": lambda: llm("slow").invoke(MESSAGES), "streamed": stream, "retry": lambda: llm("flaky", retries=2).invoke(MESSAGES),
        "agent with a tool": lambda: agent("tool"), "nested, failing": lambda: agent("m-500"),
        "fallback": lambda: llm("m-429").with_fallbacks([llm("ok")]).invoke(MESSAGES),
    }  # fmt: skip


def llama_index() -> Scenarios:
    from openinference.instrumentation.llama_index import LlamaIndexInstrumentor

    LlamaIndexInstrumentor().instrument(tracer_provider=provider())
    from llama_index.core.llms import ChatMessage
    from llama_index.llms.openai_like import OpenAILike

    def llm(model: str, retries: int = 0) -> Any:
        return OpenAILike(model=model, api_base=MODEL_URL, api_key="none", is_chat_model=True, max_retries=retries,
                          timeout=TIMEOUT_S if model == "slow" else 30.0)  # fmt: skip

    messages = [ChatMessage(**message) for message in MESSAGES]

    def stream() -> None:
        for _ in llm("ok").stream_chat(messages):
            pass

    return {
        "success": lambda: llm("ok").chat(messages), "429": lambda: llm("m-429").chat(messages), "500": lambda: llm("m-500").chat(messages),
        "time-out": lambda: llm("slow").chat(messages), "streamed": stream,
    }  # fmt: skip


def mlflow() -> Scenarios:
    import mlflow

    mlflow.openai.autolog()
    scenarios = with_openai()

    @mlflow.trace(name="weather", span_type="TOOL")
    def weather(city: str) -> str:
        return f"warm in {city}"

    @mlflow.trace(name="support", span_type="AGENT")
    def agent() -> None:
        scenarios["tool asked for"]()
        weather("Paris")
        scenarios["success"]()

    return scenarios | {"agent with a tool": agent}


def litellm() -> Scenarios:
    import litellm
    from litellm.integrations.opentelemetry import OpenTelemetry, OpenTelemetryConfig

    os.environ["OTEL_EXPORTER"] = "otlp_http"
    litellm.callbacks = [
        OpenTelemetry(config=OpenTelemetryConfig(exporter="otlp_http", endpoint=f"{OTLP_URL}/v1/traces"))
    ]

    def ask(model: str, **more: Any) -> Any:
        more = {"num_retries": 0, "max_retries": 0, "timeout": TIMEOUT_S if model == "slow" else 30} | more
        return litellm.completion(model=f"openai/{model}", api_base=MODEL_URL, messages=MESSAGES, **more)

    def stream() -> None:
        for _ in ask("ok", stream=True, stream_options={"include_usage": True}):
            pass

    return {
        "success": lambda: ask("ok"), "429": lambda: ask("m-429"), "500": lambda: ask("m-500"), "time-out": lambda: ask("slow"), "streamed": stream,
    }  # fmt: skip


def pydantic_ai() -> Scenarios:
    from openai import AsyncOpenAI
    from pydantic_ai import Agent
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider()))

    def agent(model: str) -> Any:
        client = AsyncOpenAI(max_retries=0, timeout=TIMEOUT_S if model == "slow" else 30)
        made = Agent(
            OpenAIChatModel(model, provider=OpenAIProvider(openai_client=client)),
            name="support",
            system_prompt=SYSTEM,
        )

        @made.tool_plain
        def weather(city: str) -> str:
            return f"warm in {city}"

        return made

    return {
        name: (lambda model=model: agent(model).run_sync(ASKED))
        for name, model in {"success": "ok", "429": "m-429", "500": "m-500", "time-out": "slow", "agent with a tool": "tool"}.items()
    }  # fmt: skip


def semantic_kernel() -> Scenarios:
    provider()
    import asyncio

    from openai import AsyncOpenAI
    from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion, OpenAIChatPromptExecutionSettings
    from semantic_kernel.contents import ChatHistory

    def ask(model: str, streamed: bool = False) -> Any:
        async def run() -> None:
            client = AsyncOpenAI(max_retries=0, timeout=TIMEOUT_S if model == "slow" else 30)
            service = OpenAIChatCompletion(ai_model_id=model, async_client=client)
            history = ChatHistory()
            history.add_user_message(ASKED)
            settings = OpenAIChatPromptExecutionSettings()
            if streamed:
                async for _ in service.get_streaming_chat_message_contents(history, settings):
                    pass
            else:
                await service.get_chat_message_contents(history, settings)

        return asyncio.run(run())

    def agent() -> None:
        from semantic_kernel.agents import ChatCompletionAgent
        from semantic_kernel.functions import kernel_function

        class Weather:
            @kernel_function(description="Weather of a city.")
            def weather(self, city: str) -> str:
                return f"warm in {city}"

        async def run() -> None:
            service = OpenAIChatCompletion(ai_model_id="tool", async_client=AsyncOpenAI(max_retries=0))
            await ChatCompletionAgent(service=service, name="support", plugins=[Weather()]).get_response(messages=ASKED)

        asyncio.run(run())

    return {
        "success": lambda: ask("ok"), "429": lambda: ask("m-429"), "500": lambda: ask("m-500"), "time-out": lambda: ask("slow"),
        "streamed": lambda: ask("ok", True), "agent with a tool": agent,
    }  # fmt: skip


def azure_ai() -> Scenarios:
    provider()
    os.environ["AZURE_TRACING_GEN_AI_CONTENT_RECORDING_ENABLED"] = "true"
    from azure.core.settings import settings

    settings.tracing_implementation = "opentelemetry"
    from azure.ai.inference import ChatCompletionsClient
    from azure.ai.inference.tracing import AIInferenceInstrumentor
    from azure.core.credentials import AzureKeyCredential

    AIInferenceInstrumentor().instrument()

    def ask(model: str, **more: Any) -> Any:
        wait = {"read_timeout": TIMEOUT_S} if model == "slow" else {}
        client = ChatCompletionsClient(MODEL_URL, AzureKeyCredential("none"), retry_total=0, **wait)
        return client.complete(messages=MESSAGES, model=model, **more)

    def stream() -> None:
        for _ in ask("ok", stream=True, model_extras={"stream_options": {"include_usage": True}}):
            pass

    return {
        "success": lambda: ask("ok"),
        "429": lambda: ask("m-429"),
        "500": lambda: ask("m-500"),
        "time-out": lambda: ask("slow"),
        "streamed": stream,
    }


def fastapi() -> Scenarios:
    made = provider()
    from fastapi import FastAPI
    from fastapi.testclient import TestClient
    from opentelemetry.instrumentation.fastapi import FastAPIInstrumentor
    from opentelemetry.instrumentation.openai_v2 import OpenAIInstrumentor

    OpenAIInstrumentor().instrument(tracer_provider=made)
    app, calls = FastAPI(), with_openai()

    @app.post("/chat/{name}")
    def chat(name: str) -> dict[str, str]:
        calls[name]()
        return {"answer": "warm"}

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    FastAPIInstrumentor.instrument_app(app, tracer_provider=made)
    client = TestClient(app, raise_server_exceptions=False)

    def post(name: str) -> None:
        answer = client.post(f"/chat/{name}")
        if answer.status_code >= 500:
            raise RuntimeError("as expected")

    return {name: (lambda name=name: post(name)) for name in ("success", "500", "streamed", "retry")} | {
        "health check": lambda: client.get("/healthz"),
    }  # fmt: skip


DIALECTS = {
    "openai-v2": openai_v2, "openai-v2-latest": openai_v2_latest, "openllmetry": openllmetry, "langchain": langchain, "llama-index": llama_index,
    "mlflow": mlflow, "litellm": litellm,
    "pydantic-ai": pydantic_ai, "semantic-kernel": semantic_kernel, "azure-ai": azure_ai, "fastapi": fastapi,
}  # fmt: skip


def settle() -> None:
    """What a library exports in threads of its own has left."""
    from opentelemetry import trace

    made = trace.get_tracer_provider()
    if hasattr(made, "force_flush"):
        made.force_flush()
    if DIALECT == "mlflow":
        import mlflow

        mlflow.flush_trace_async_logging()
    time.sleep(0.5 if DIALECT == "litellm" else 0.05)


def main() -> None:
    for name, scenario in DIALECTS[DIALECT]().items():
        begun, problem = time.time(), None
        try:
            scenario()
            problem = "it did not fail" if name in FAILING or "failing" in name else None
        except Exception as error:
            problem = None if name in FAILING or "failing" in name else f"{type(error).__name__}: {error}"[:300]
        ended = time.time()
        settle()
        print(json.dumps({"scenario": name, "begun": begun, "ended": ended, "problem": problem}), flush=True)


main()
