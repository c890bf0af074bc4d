// Package page is the live page of a server: one HTML document with embedded style and script,
// which loads nothing but the data of GET live, once a second. Package millrace/services/admin/live
// makes that data.
package page

import (
	"crypto/sha256"
	"embed"
	"encoding/base64"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

//go:embed index.html page.css text.js dom.js view.js main.js
var files embed.FS

// document is the page and its Content-Security-Policy.
type document struct {
	html   []byte
	policy string
}

var made = sync.OnceValue(func() document {
	style, script := read("page.css"), ""
	for _, name := range []string{"text.js", "dom.js", "view.js", "main.js"} {
		script += read(name)
	}
	script = `"use strict";{` + script + "}"
	html := strings.NewReplacer("<!--style-->", "<style>"+style+"</style>", "<!--script-->", "<script>"+script+"</script>").Replace(read("index.html"))
	return document{[]byte(html), "default-src 'none'; script-src " + hash(script) + "; style-src " + hash(style) +
		"; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}
})

func read(name string) string {
	b, err := files.ReadFile(name)
	if err != nil {
		panic("page: " + name + " is not embedded")
	}
	return string(b)
}

// hash returns the hash of an inline text for a Content-Security-Policy.
func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// Serve answers with the page. The status is 200; with 401 the page asks its user for the token. It
// is sent without a token because it contains no data of the server.
func Serve(w http.ResponseWriter, status int) {
	d, h := made(), w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", d.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cache-Control", "no-store")
	h.Set("Content-Length", strconv.Itoa(len(d.html)))
	w.WriteHeader(status)
	_, _ = w.Write(d.html)
}
