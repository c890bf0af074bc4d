// Package ts holds no Go code: millrace-client, the client in TypeScript, and a test that
// runs its tests. Its README says how it is used.
package ts
