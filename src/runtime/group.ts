/**
 * @file The processes of a data-parallel training: who one is (torchrun's environment variables, or those of
 * Slurm's srun), and what they tell each other besides tensors. Every rank holds a connection to rank 0; one
 * that closes without a goodbye is a rank that died, of which all others hear at once, also while their
 * devices wait in a collective.
 */

import { createConnection, createServer, type Server, type Socket } from "node:net";
import { UserError } from "../config/errors.ts";

export interface Membership {
  readonly rank: number;
  readonly world: number;
  /** Among the ranks of this host: which GPU. */
  readonly localRank: number;
  /** Where rank 0 is to be found. */
  readonly host: string;
  readonly port: number;
  /** Whether somebody else (torchrun) serves the store at that address. */
  readonly external: boolean;
}

type Environment = { readonly [name: string]: string | undefined };

/** This process's place, or undefined where it trains alone. */
export function membershipOf(env: Environment = process.env): Membership | undefined {
  const slurm = env["WORLD_SIZE"] === undefined && Number(env["SLURM_STEP_NUM_TASKS"] ?? 1) > 1;
  const pick = (torch: string, own: string) => ({
    name: slurm ? own : torch,
    text: env[slurm ? own : torch],
  });
  const integer = ({ name, text }: ReturnType<typeof pick>, fallback?: number): number => {
    const value = text === undefined ? fallback : Number(text);
    if (value === undefined || !Number.isInteger(value) || value < 0) {
      throw new UserError(
        `${name} is ${text === undefined ? "missing" : JSON.stringify(text)}, expected a whole number`,
        "start the ranks with tessera run --devices, torchrun or srun, or set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT",
      );
    }
    return value;
  };
  const world = integer(pick("WORLD_SIZE", "SLURM_STEP_NUM_TASKS"), 1);
  if (world <= 1) {
    return undefined;
  }
  const rank = integer(pick("RANK", "SLURM_PROCID"));
  if (rank >= world) {
    throw new UserError(`rank ${rank} of ${world}: expected RANK below WORLD_SIZE`);
  }
  // A port that two jobs of one host are unlikely to share.
  const usual = 29_500 + (Number(env["SLURM_JOB_ID"] ?? 0) % 1000);
  return {
    rank,
    world,
    localRank: integer(pick("LOCAL_RANK", "SLURM_LOCALID"), rank),
    host: env["MASTER_ADDR"] ?? (slurm ? firstHost(env["SLURM_STEP_NODELIST"] ?? "") : "127.0.0.1"),
    port: integer({ name: "MASTER_PORT", text: env["MASTER_PORT"] }, usual),
    external: env["TORCHELASTIC_USE_AGENT_STORE"] === "True",
  };
}

/** The first host of a Slurm list: "gpu[07-09,12],b3" gives "gpu07". */
export function firstHost(list: string): string {
  const found = /^([^[,]+)(?:\[([^\],-]+))?/.exec(list);
  if (!found) {
    throw new UserError(
      `SLURM_STEP_NODELIST is ${JSON.stringify(list)}: it names no host`,
      "set MASTER_ADDR to the host of rank 0",
    );
  }
  return `${found[1]}${found[2] ?? ""}`;
}

/** The connections of one rank. */
export interface Group extends Membership {
  /** Everybody's value, by rank. All ranks must call it equally often. */
  gather<T>(value: T): Promise<T[]>;
  /** Rejects when a rank dies. */
  readonly lost: Promise<never>;
  /** Say goodbye: this rank has done its part. */
  leave(): Promise<void>;
}

interface Message {
  readonly rank?: number;
  readonly round?: number;
  readonly value?: unknown;
  readonly values?: unknown[];
  readonly died?: number;
  readonly goodbye?: true;
}

/** Messages of a socket, one JSON a line. */
function onMessages(socket: Socket, handle: (message: Message) => void): void {
  let rest = "";
  socket.setEncoding("utf8");
  socket.on("data", (chunk: string) => {
    const lines = (rest + chunk).split("\n");
    rest = lines.pop()!;
    for (const line of lines) {
      handle(JSON.parse(line) as Message);
    }
  });
}

const send = (socket: Socket, message: Message): void => {
  if (!socket.destroyed) {
    socket.write(`${JSON.stringify(message)}\n`);
  }
};

const ended = (): UserError =>
  new UserError("rank 0 of the data-parallel training has ended it", "its own messages say why");

function lostRank(rank: number): UserError {
  return new UserError(
    `rank ${rank} of the data-parallel training has died; the others stop too`,
    "its own messages say why; the same command goes on from the last checkpoint",
  );
}

/**
 * Join the others.
 * @param exchange tells all ranks what rank 0 hands in; called once, on every rank
 */
export async function openGroup(
  membership: Membership,
  exchange: (note: string) => string | Promise<string>,
): Promise<Group> {
  const { rank, world, host } = membership;
  let fail: (error: Error) => void = () => undefined;
  const lost = new Promise<never>((_, reject) => {
    fail = reject;
  });
  lost.catch(() => undefined);
  /** Answers of rounds of `gather` that are under way. */
  const open = new Map<number, (values: unknown[]) => void>();
  /** Rejects when rank 0 has said goodbye: nobody answers any more, but what runs may end. */
  let end: () => void = () => undefined;
  const over = new Promise<never>((_, reject) => {
    end = () => reject(ended());
  });
  over.catch(() => undefined);
  let round = 0;
  let leaving = false;
  const answered = (at: number, values: unknown[]): void => {
    open.get(at)?.(values);
    open.delete(at);
  };

  let submit: (at: number, value: unknown) => void;
  let goodbye: () => Promise<void>;
  if (rank === 0) {
    const peers = new Map<number, Socket>();
    const left = new Set<number>();
    const rounds = new Map<number, Map<number, unknown>>();
    const put = (from: number, at: number, value: unknown): void => {
      const values = rounds.get(at) ?? new Map<number, unknown>();
      rounds.set(at, values.set(from, value));
      if (values.size === world) {
        rounds.delete(at);
        const all = Array.from({ length: world }, (_, r) => values.get(r) ?? null);
        for (const socket of peers.values()) {
          send(socket, { round: at, values: all });
        }
        answered(at, all);
      }
    };
    let complete: () => void = () => undefined;
    const everybody = new Promise<void>((resolve) => {
      complete = resolve;
    });
    let empty: () => void = () => undefined;
    const server = createServer((socket) => {
      let who: number | undefined;
      socket.on("error", () => undefined); // "close" follows
      socket.on("close", () => {
        if (who === undefined) {
          return;
        }
        peers.delete(who);
        if (!left.has(who) && !leaving) {
          fail(lostRank(who));
          for (const other of peers.values()) {
            send(other, { died: who });
          }
        }
        if (peers.size === 0) {
          empty();
        }
      });
      onMessages(socket, (message) => {
        if (message.rank !== undefined && who === undefined) {
          who = message.rank;
          peers.set(who, socket);
          if (peers.size === world - 1) {
            complete();
          }
        } else if (message.goodbye && who !== undefined) {
          left.add(who);
        } else if (message.round !== undefined && who !== undefined) {
          put(who, message.round, message.value);
        }
      });
    });
    const port = await listen(server);
    await exchange(String(port));
    await everybody;
    submit = (at, value) => put(0, at, value);
    goodbye = async () => {
      // The others first, or they would take this end for a death.
      await new Promise<void>((resolve) => {
        empty = resolve;
        if (peers.size === 0) {
          resolve();
        }
        for (const socket of peers.values()) {
          send(socket, { goodbye: true });
          socket.end();
        }
      });
      server.close();
    };
  } else {
    const port = Number(await exchange(""));
    const socket = createConnection({ host, port });
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    socket.on("error", () => undefined);
    let told = false;
    socket.on("close", () => {
      if (told) {
        end();
      } else if (!leaving) {
        fail(lostRank(0));
      }
    });
    onMessages(socket, (message) => {
      if (message.died !== undefined) {
        fail(lostRank(message.died));
      } else if (message.goodbye) {
        told = true;
      } else if (message.round !== undefined) {
        answered(message.round, message.values!);
      }
    });
    send(socket, { rank });
    submit = (at, value) => send(socket, { round: at, value: value ?? null });
    goodbye = () =>
      new Promise((resolve) => {
        socket.once("close", () => resolve());
        send(socket, { goodbye: true });
        socket.end();
        if (socket.destroyed) {
          resolve();
        }
      });
  }

  return {
    ...membership,
    lost,
    gather: <T>(value: T) => {
      const at = round++;
      const answer = new Promise<unknown[]>((resolve) => open.set(at, resolve));
      submit(at, value);
      return Promise.race([answer as Promise<T[]>, lost, over]);
    },
    leave: async () => {
      if (!leaving) {
        leaving = true;
        await goodbye();
      }
    },
  };
}

function listen(server: Server): Promise<number> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(0, () => resolve((server.address() as { port: number }).port));
  });
}
