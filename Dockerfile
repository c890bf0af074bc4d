# The server alone: a static binary, no shell, no libraries, not root.
#
#	docker build -t millrace .
#	docker run -p 7000:7000 --ulimit nofile=65536 millrace
#	docker run -p 7000:7000 -e MILLRACE_DB=postgres://… millrace serve --addr tcp://0.0.0.0:7000 --max-conns 50000
FROM golang:1.26.8 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 go build -trimpath -ldflags=-buildid= -o /millrace ./cmd/millrace

FROM scratch
COPY --from=build /millrace /millrace
# The authorities that the certificates of a database or of NATS servers may come from.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY LICENSE docs/licences.md /
USER 65532:65532
EXPOSE 7000
# A PING, which the server answers whatever it is doing.
HEALTHCHECK --interval=10s --timeout=5s --start-period=10s CMD ["/millrace", "call", "--timeout", "3s", "127.0.0.1:7000", "0/1"]
# SIGTERM drains; give it longer than --drain-timeout: docker stop -t 40.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/millrace"]
CMD ["serve", "--addr", "tcp://0.0.0.0:7000"]
