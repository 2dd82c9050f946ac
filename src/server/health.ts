// Whether the server can do its work, found out at most once a second however many ask.
import { sql } from "drizzle-orm";
import type { HealthResponse } from "../proto/api-nodes.ts";
import type { Database } from "./db/open.ts";

const FRESH_MS = 1000;

export class Health {
  readonly #database: Database;
  readonly #stun: () => "healthy" | "unhealthy" | "off";
  readonly #startedAt = Date.now();
  #checkedAt = Number.NEGATIVE_INFINITY;
  #checking: Promise<{ readonly isHealthy: boolean; readonly latencyMs: number }> | null = null;

  constructor(database: Database, stun: () => "healthy" | "unhealthy" | "off") {
    this.#database = database;
    this.#stun = stun;
  }

  get uptimeS(): number {
    return Math.floor((Date.now() - this.#startedAt) / 1000);
  }

  async report(): Promise<HealthResponse> {
    const now = Date.now();
    if (this.#checking === null || now - this.#checkedAt >= FRESH_MS) {
      this.#checkedAt = now;
      this.#checking = this.#checkDatabase();
    }
    const database = await this.#checking;
    return {
      status: database.isHealthy ? "healthy" : "unhealthy",
      timestamp: new Date(now).toISOString(),
      uptime: this.uptimeS,
      services: {
        database: { status: database.isHealthy ? "healthy" : "unhealthy", latency: database.latencyMs },
        stun: { status: this.#stun() },
        relay: { status: "healthy" },
      },
    };
  }

  async #checkDatabase(): Promise<{ isHealthy: boolean; latencyMs: number }> {
    const from = performance.now();
    try {
      await this.#database.read((queries) => queries.run(sql`SELECT 1`));
      return { isHealthy: true, latencyMs: Math.round((performance.now() - from) * 100) / 100 };
    } catch {
      return { isHealthy: false, latencyMs: 0 }; // the report says so; the log has it from whoever needed the database
    }
  }
}
