#!/usr/bin/env bash
# Builds the OpenTelemetry Collector with its own builder into build/otelcol: the peer of benchmarks.ingest.
set -euo pipefail
version=v0.162.0 confmap=v1.68.0
core=go.opentelemetry.io/collector contrib=github.com/open-telemetry/opentelemetry-collector-contrib
parts=("$core/receiver/otlpreceiver@$version" "$core/exporter/otlpexporter@$version" "$contrib/exporter/fileexporter@$version"
       "$contrib/extension/storage/filestorage@$version" "$core/confmap/provider/fileprovider@$confmap"
       "$core/confmap/provider/envprovider@$confmap")
mkdir -p build/collector && cd build/collector
GOBIN=$PWD go install "$core/cmd/builder@$version"
gomod() { echo "  - {gomod: ${1/@/ }}"; }
{
  echo "dist: {name: otelcol, output_path: ./out, module: example.com/otelcol}"
  echo "receivers:"; gomod "${parts[0]}"
  echo "exporters:"; gomod "${parts[1]}"; gomod "${parts[2]}"
  echo "extensions:"; gomod "${parts[3]}"
  echo "providers:"; gomod "${parts[4]}"; gomod "${parts[5]}"
} > builder.yaml
./builder --config builder.yaml --skip-get-modules --skip-compilation
cd out
grep -q ^module go.mod 2>/dev/null || go mod init example.com/otelcol
export GOFLAGS=-mod=mod
go get "${parts[@]}" "$core/otelcol@$version"
go build -o ../../otelcol .
echo "now: OTELCOL=build/otelcol uv run python -m benchmarks.ingest"
