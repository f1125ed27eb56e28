// Vercel's AI SDK, as drive.py drives the Python packages: `node drive.mjs vercel MODEL_URL OTLP_URL`.
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-proto'
import { resourceFromAttributes } from '@opentelemetry/resources'
import { NodeTracerProvider, SimpleSpanProcessor } from '@opentelemetry/sdk-trace-node'
import { generateText, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

const [, , , modelUrl, otlpUrl] = process.argv
const provider = new NodeTracerProvider({
  resource: resourceFromAttributes({ 'service.name': 'support' }),
  spanProcessors: [new SimpleSpanProcessor(new OTLPTraceExporter({ url: `${otlpUrl}/v1/traces` }))],
})
provider.register()

const models = createOpenAICompatible({ name: 'local', baseURL: modelUrl, apiKey: 'none', includeUsage: true })
const weather = tool({
  description: 'Weather of a city.',
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => `warm in ${city}`,
})
const asked = (name, more = {}) => ({
  model: models(name), system: 'Be brief.', prompt: 'weather in Paris?', maxRetries: 0, experimental_telemetry: { isEnabled: true, functionId: 'answer' }, ...more,
})
const scenarios = {
  success: () => generateText(asked('ok')),
  429: () => generateText(asked('m-429')),
  500: () => generateText(asked('m-500')),
  'time-out': () => generateText(asked('slow', { abortSignal: AbortSignal.timeout(400) })),
  streamed: async () => {
    for await (const _ of streamText(asked('ok')).textStream);
  },
  retry: () => generateText(asked('flaky', { maxRetries: 2 })),
  'agent with a tool': () => generateText(asked('tool', { tools: { weather }, stopWhen: stepCountIs(4) })),
}
for (const name of ['success', '429', '500', 'time-out', 'streamed', 'retry', 'agent with a tool']) {
  const fails = ['429', '500', 'time-out'].includes(name)
  const begun = Date.now() / 1000
  let problem = null
  try {
    await scenarios[name]()
    problem = fails ? 'it did not fail' : null
  } catch (error) {
    problem = fails ? null : String(error).slice(0, 300)
  }
  const ended = Date.now() / 1000 + 0.001
  await provider.forceFlush()
  await new Promise((done) => setTimeout(done, 50))
  console.log(JSON.stringify({ scenario: name, begun, ended, problem }))
}
await provider.shutdown()
