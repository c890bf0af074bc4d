package main

import (
	"errors"
	"fmt"
	"strings"

	"millrace/internal/mask"
	"millrace/services/cluster"
)

// clusterFlags maps fields of cluster.Config to flags.
var clusterFlags = map[string]string{
	"Replicas": "cluster-replicas", "Creds": "cluster-creds", "NKey": "cluster-nkey",
	"TLSCA": "cluster-tls-ca", "TLSCert": "cluster-tls-cert", "TLSKey": "cluster-tls-key",
}

// inClusterFlags replaces the field names in errors of package cluster by flags.
var inClusterFlags = strings.NewReplacer("Creds are", "--cluster-creds is", "TLSCert", "--cluster-tls-cert", "TLSKey", "--cluster-tls-key")

// badCluster reports invalid settings of the cluster.
func (f *backendFlags) badCluster(err error) error {
	if text := fieldsText(err); text != "" {
		return exitf(exitUsage, "%s", text)
	}
	switch {
	case strings.Contains(err.Error(), "a bucket's name"):
		return exitf(exitUsage, "--cluster-prefix %q: must be 1 to 64 letters, digits, - and _", f.ClusterPrefix)
	case strings.Contains(err.Error(), "lease under"):
		return exitf(exitUsage, "--cluster-lease %v: must be at least 100ms", f.ClusterLease)
	}
	return badBackend("cluster", f.Cluster, err)
}

// fieldsText describes what is wrong with which flags; "" if err is about something else.
func fieldsText(err error) string {
	var lines []string
	for _, e := range flatten(err) {
		var c *cluster.ConfigError
		if errors.As(e, &c) {
			lines = append(lines, flagText(c))
		}
	}
	return strings.Join(lines, "; ")
}

func flagText(c *cluster.ConfigError) string {
	value := fmt.Sprint(c.Value)
	if s, ok := c.Value.(string); ok {
		value = fmt.Sprintf("%q", s)
	}
	text := "--" + clusterFlags[c.Field] + " " + value + ": " + inClusterFlags.Replace(c.Why)
	if c.Field == "Replicas" && strings.Contains(c.Why, "servers") {
		text += "; give a lower number, or the URLs of a NATS cluster of as many servers"
	}
	return text
}

// noCluster reports why the cluster's servers can't be used.
func (f *backendFlags) noCluster(err error) error {
	if text := fieldsText(err); text != "" {
		return exitf(exitNoServer, "%s", text)
	}
	url := mask.Conn(f.Cluster)
	switch {
	case errors.Is(err, cluster.ErrRefused):
		switch {
		case f.ClusterCreds != "":
			return exitf(exitNoServer, "--cluster-creds %q: %w; give the credentials of a user that may use JetStream and the subjects of --cluster-prefix", f.ClusterCreds, mask.Error(err))
		case f.ClusterNKey != "":
			return exitf(exitNoServer, "--cluster-nkey %q: %w; give the seed of a user that the servers know", f.ClusterNKey, mask.Error(err))
		}
		return exitf(exitNoServer, "--cluster %q: %w; give the token or the user and password that the servers require, --cluster-creds or --cluster-nkey", url, mask.Error(err))
	case errors.Is(err, cluster.ErrCertificate):
		switch {
		case f.ClusterTLSCA == "":
			return exitf(exitNoServer, "--cluster %q: %w; give the CA certificate of the servers with --cluster-tls-ca, and --cluster-tls-cert if they require one", url, mask.Error(err))
		case f.ClusterTLSCert != "":
			return exitf(exitNoServer, "--cluster-tls-ca %q, --cluster-tls-cert %q: %w; give the CA certificate of the servers, and a client certificate that they accept", f.ClusterTLSCA, f.ClusterTLSCert, mask.Error(err))
		}
		return exitf(exitNoServer, "--cluster-tls-ca %q: %w; give the CA certificate of the servers, and --cluster-tls-cert if they require one", f.ClusterTLSCA, mask.Error(err))
	case errors.Is(err, cluster.ErrServers):
		return exitf(exitNoServer, "--cluster %q: %w", url, mask.Error(err))
	}
	return exitf(exitFailed, "--cluster %q: %w", url, mask.Error(err))
}
