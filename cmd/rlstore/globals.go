package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/rlstore/rlstore/client"
)

// globals are the flags of every command: whom to talk to, and how.
type globals struct {
	endpoints []string
	timeout   time.Duration
	output    string
	tokenFile string
	tlsCA     string
	tlsCert   string
	tlsKey    string
}

func (g *globals) register(flags *pflag.FlagSet) {
	flags.StringSliceVar(&g.endpoints, "endpoints", []string{"http://127.0.0.1:8101"}, "base `URLs` of nodes, comma-separated")
	flags.DurationVar(&g.timeout, "timeout", 5*time.Second, "give up after this `duration`")
	flags.StringVarP(&g.output, "output", "o", "table", "`format` of the answer: table or json")
	flags.StringVar(&g.tokenFile, "token-file", "", "`file` with the token to show")
	flags.StringVar(&g.tlsCA, "tls-ca", "", "PEM `file` of the authorities to trust for https endpoints")
	flags.StringVar(&g.tlsCert, "tls-cert", "", "PEM `file` of the certificate to show")
	flags.StringVar(&g.tlsKey, "tls-key", "", "PEM `file` of that certificate's key")
}

// complete takes what no flag set from the environment, and checks it all.
func (g *globals) complete(cmd *cobra.Command, lookup func(string) (string, bool)) error {
	var fault error
	cmd.Root().PersistentFlags().VisitAll(func(f *pflag.Flag) {
		name := "RLSTORE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
		if v, _ := lookup(name); v != "" && !f.Changed && fault == nil {
			if err := f.Value.Set(v); err != nil {
				fault = usagef("%s: %w", name, err)
			}
		}
	})
	switch {
	case fault != nil:
		return fault
	case g.output != "table" && g.output != "json":
		return usagef("--output is table or json, not %q", g.output)
	case g.timeout <= 0:
		return usagef("--timeout is %s; it needs to be above 0", g.timeout)
	case (g.tlsCert == "") != (g.tlsKey == ""):
		return usagef("--tls-cert and --tls-key go together")
	}
	return nil
}

// json reports whether answers are printed as JSON.
func (g *globals) json() bool { return g.output == "json" }

// connect returns a client of the endpoints, which the caller closes.
func (g *globals) connect() (*client.Client, error) {
	opts := []client.Option{client.WithTimeout(g.timeout)}
	if g.tokenFile != "" {
		token, err := g.token()
		if err != nil {
			return nil, err
		}
		opts = append(opts, client.WithToken(token))
	}
	if g.tlsCA != "" || g.tlsCert != "" {
		conf, err := g.tlsConfig()
		if err != nil {
			return nil, &usageError{err}
		}
		opts = append(opts, client.WithTLS(conf))
	}
	endpoints := make([]string, len(g.endpoints))
	for i, e := range g.endpoints {
		endpoints[i] = strings.TrimSpace(e)
	}
	c, err := client.New(endpoints, opts...)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--endpoints: %w", err)}
	}
	return c, nil
}

// token reads the token file. What could be no header of a request would look like a
// cluster that does not answer.
func (g *globals) token() (string, error) {
	b, err := os.ReadFile(g.tokenFile)
	if err != nil {
		return "", usagef("--token-file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	unfit := func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }
	if token == "" || strings.ContainsFunc(token, unfit) {
		return "", usagef("--token-file: %s needs to hold one token, a line without spaces, and nothing else", g.tokenFile)
	}
	return token, nil
}

func (g *globals) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if g.tlsCA != "" {
		pem, err := os.ReadFile(g.tlsCA)
		if err != nil {
			return nil, fmt.Errorf("--tls-ca: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("--tls-ca: there is no certificate in %s", g.tlsCA)
		}
	}
	if g.tlsCert != "" {
		cert, err := tls.LoadX509KeyPair(g.tlsCert, g.tlsKey)
		if err != nil {
			return nil, fmt.Errorf("--tls-cert and --tls-key: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}
